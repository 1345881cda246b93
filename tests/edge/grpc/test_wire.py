"""The codec that bypasses protobuf for contents always agrees with protobuf.

Requests are put together here octet by octet, in every form that protobuf's encoding
allows and in many that it does not; answers are held against those of protobuf alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oip_handler.datatypes import from_list
from oip_handler.errors import InvalidRequest, OIPError
from oip_handler.messages import (
    InferenceResponse,
    Parameters,
    RequestInput,
    ResponseOutput,
)
from oip_handler.tensors import TensorData
from oip_host.edge.grpc import codec as grpc_codec
from oip_host.edge.grpc import wire as grpc_wire
from oip_host.edge.grpc.messages import message
from support.carriers import CONTENTS, DTYPES, Array, Named, octets, raw, wire_request

MANY = settings(max_examples=500)
FEW = settings(max_examples=30)
NEVER = 1 << 40
"""A least size that no message has, so that protobuf reads all of it."""
NUMBERS = [name for name in CONTENTS if name != "BYTES"]
INTEGERS = [name for name in CONTENTS if "INT" in name]

# -- the wire, octet by octet -------------------------------------------------

Bytes = st.SearchStrategy[bytes]
PACKED = {"fp32_contents": 4, "fp64_contents": 8}
FIELDS = {
    field.name: field.number
    for field in message("InferTensorContents").DESCRIPTOR.fields
}


def varint(number: int, spare: int = 0) -> bytes:
    """An integer of 64 bits, padded with as many octets as protobuf accepts."""
    number %= 1 << 64
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F)
    groups += [0] * min(spare, 10 - len(groups))
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def sized(number: int, payload: bytes, spare: int = 0) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload), spare) + payload


INTEGER = st.sampled_from([0, 1, 2, 127, 128, 255, 256, 2**31, 2**32, 2**63, -1, -129])
VALUES = INTEGER | st.integers(-(2**63), 2**64 - 1)
VARINTS = st.builds(varint, VALUES) | st.builds(varint, VALUES, st.integers(0, 9))
OVERLONG = st.sampled_from([b"\x80" * 9 + b"\x02", b"\xff" * 9 + b"\x7f", b"\xff" * 10])
SPARE = st.sampled_from([0, 0, 0, 1, 5])
UNKNOWN = st.one_of(
    st.builds(sized, st.integers(9, 16), st.binary(max_size=5)),
    VARINTS.map(lambda value: varint(9 << 3) + value),
    st.just(varint(9 << 3 | 1) + b"12345678"),
    st.just(varint(9 << 3 | 5) + b"1234"),
    st.just(varint(9 << 3 | 3) + varint(9 << 3 | 4)),  # a group
)
"""Fields that no message has, and protobuf passes over."""
ODD = st.one_of(
    st.builds(sized, st.integers(1, 8), st.sampled_from([b"", b"x", b"\xff", b"\x08"])),
    st.sampled_from([b"\x00", b"\x07", b"\x2d1234", b"\x28\x01", b"\xaa\x00\x00"]),
    st.just(varint(9 << 3 | 3)),  # a group that does not end
)
"""Fields that some messages have, of another type or too often, and no fields."""
PARAMETER = st.builds(
    lambda name, value: sized(4, sized(1, name) + sized(2, value)),
    st.sampled_from([b"p", b"q", b"content_type"]),
    st.sampled_from([b"", b"\x08\x01", b"\x10\x05", b"\x1a\x01t"]),
)


def sometimes(strategy: Bytes) -> st.SearchStrategy[list[bytes]]:
    return st.just([]) | st.just([]) | st.lists(strategy, max_size=2)


@st.composite
def payloads(draw: st.DrawFn, name: str, wild: bool) -> bytes:
    """The packed payload of a typed field; a wild one may end within an element."""
    if name in PACKED:
        size = PACKED[name] * draw(st.integers(0, 4)) + (
            wild and draw(st.integers(0, 1))
        )
        return draw(st.binary(min_size=size, max_size=size))
    short = st.integers(0, 127).map(varint)
    kinds = [short, short, VARINTS, VARINTS | OVERLONG if wild else VARINTS]
    elements = draw(
        st.lists(draw(st.sampled_from(kinds)), min_size=not wild, max_size=6)
    )
    return b"".join(elements)[: -1 if wild and draw(st.booleans()) else None]


def unpacked(name: str) -> Bytes:
    """One element of a typed field, with a tag of its own."""
    tag = FIELDS[name] << 3
    if name == "bytes_contents":
        return st.binary(max_size=3).map(lambda value: sized(8, value))
    if name not in PACKED:
        return VARINTS.map(lambda value: varint(tag) + value)
    size = PACKED[name]
    value = st.binary(min_size=size, max_size=size)
    return value.map(lambda octets: varint(tag | (5 if size == 4 else 1)) + octets)


@st.composite
def contents(draw: st.DrawFn, name: str, wild: bool) -> bytes:
    """InferTensorContents: one packed field, or something less usual."""
    one = st.builds(sized, st.just(FIELDS[name]), payloads(name, wild), SPARE)
    if name == "bytes_contents":
        one = unpacked(name)
    if draw(st.integers(0, 3)):
        return draw(one)
    kinds = [one, unpacked(name), UNKNOWN]
    if wild:
        kinds += [ODD, draw(st.sampled_from([*FIELDS]).map(unpacked))]
    return b"".join(draw(st.lists(st.one_of(kinds), max_size=3)))


@st.composite
def inputs(draw: st.DrawFn, name: bytes, bare: bool, wild: bool) -> bytes:
    """InferInputTensor; a wild one may have contents that do not fit it."""
    known = [*DTYPES, "fp32"] if wild else [*(DTYPES if bare else CONTENTS)]
    datatype = draw(st.sampled_from(known))
    shape = draw(st.lists(st.integers(-wild, 300), max_size=3))
    field = CONTENTS.get(datatype, "fp32_contents")
    if wild and draw(st.booleans()):
        field = draw(st.sampled_from([*FIELDS]))
    fields = [sized(1, name), sized(2, datatype.encode())]
    if draw(st.booleans()):
        fields.append(sized(3, b"".join(map(varint, shape))))
    else:
        fields += [b"\x18" + varint(size) for size in shape]
    for _ in range(draw(st.sampled_from([0] if bare else [0, 1, 1, 1, 1, 1, 2]))):
        fields.append(sized(5, draw(contents(field, wild)), draw(SPARE)))
    fields += draw(
        sometimes(UNKNOWN | PARAMETER | ODD if wild else UNKNOWN | PARAMETER)
    )
    return b"".join(draw(st.permutations(fields)))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A ModelInferRequest, in any valid form or malformed."""
    wild, in_raw = draw(st.booleans()), draw(st.integers(0, 3)) == 0
    names = draw(st.permutations([b"x", b"y", b"", b"\xff" if wild else b"z"]))
    names = names[: draw(st.sampled_from([1, 1, 2, 3, 0 if wild else 1]))]
    bare = in_raw and not (wild and draw(st.booleans()))
    fields = [sized(1, b"echo")]
    fields += [sized(5, draw(inputs(name, bare, wild)), draw(SPARE)) for name in names]
    if in_raw:
        size = draw(st.integers(0, 9)) if wild else 8
        some = st.just(bytes(size)) | st.binary(min_size=size, max_size=size)
        for _ in names[wild and draw(st.integers(0, 1)) :]:
            fields.append(sized(7, draw(some), draw(SPARE)))
    output = st.sampled_from([sized(1, b"o"), sized(1, b"p") + sized(9, b"")])
    rare = [UNKNOWN, PARAMETER, output.map(lambda value: sized(6, value))]
    fields += draw(sometimes(st.one_of([*rare, ODD] if wild else rare)))
    return b"".join(draw(st.permutations(fields)))


@st.composite
def damaged(draw: st.DrawFn, whole: Bytes) -> bytes:
    """The bytes cut off, or with one stretch of them replaced by other bytes."""
    data = draw(whole)
    at = draw(st.integers(0, len(data)))
    if draw(st.booleans()):
        return data[:at]
    size = draw(st.integers(0, 3))
    return data[:at] + draw(st.binary(max_size=3)) + data[at + size :]


# -- reading ------------------------------------------------------------------


def bits(tensor: RequestInput) -> Any:
    """Return the bits of the elements; Python makes a signalling NaN quiet."""
    array = tensor.data.array
    assert array is not None
    if array.dtype == object:
        return tensor.data.root
    if array.dtype == np.float32:
        array = np.where(np.isnan(array), np.float32("nan"), array)
    return array.dtype, array.shape, array.tobytes(), array.flags.writeable


def outcome(data: bytes, least: int) -> Any:
    """Return the whole message that the codec reads from a request, or the error."""
    try:
        received = grpc_codec.parse(data, least, least)
        request = grpc_codec.decode(received)
    except OIPError as error:
        return type(error), str(error)
    tensors = [
        (each.name, each.shape, each.datatype, each.parameters, bits(each))
        for each in request.inputs
    ]
    name, version = received.message.model_name, received.message.model_version
    asked = request.id, request.parameters, request.outputs, bool(received.raw)
    return name, version, *asked, tensors


@MANY
@given(requests())
def test_a_request_is_read_as_protobuf_reads_it(data: bytes) -> None:
    """Any form of a message gives the same request, or the same error and text."""
    assert outcome(data, NEVER) == outcome(data, 0)


@MANY
@given(damaged(requests()) | st.binary(max_size=40))
def test_damaged_bytes_are_read_as_protobuf_reads_them(data: bytes) -> None:
    """Truncated, changed and arbitrary bytes have the same outcome as in protobuf."""
    assert outcome(data, NEVER) == outcome(data, 0)


def one(field: str, payload: bytes, datatype: str = "INT32") -> bytes:
    """A request with one input, and one packed field of contents."""
    return sized(5, HEAD[datatype] + sized(5, sized(FIELDS[field], payload)))


HEAD = {name: sized(1, b"x") + sized(2, name.encode()) for name in CONTENTS}
THREE = sized(2, b"\x01\x02\x03")  # int_contents
USUAL = {
    "in octets of their own": one("int_contents", b"\x01\x02\x03"),
    "with an octet to spare": one("int_contents", b"\x81\x00\x02"),
    "negative": one("int_contents", varint(-1) + varint(-(2**31))),
    "beyond 32 bits": one("int_contents", varint(2**32 + 5) + varint(2**63)),
    "beyond 64 bits": one("int_contents", b"\x01" + b"\xff" * 9 + b"\x7f"),
    "a boolean of 2": one("bool_contents", b"\x00\x01\x02", "BOOL"),
    "a boolean of many octets": one("bool_contents", b"\x80\x02\x80\x00", "BOOL"),
    "of another datatype": one("int_contents", b"\x01", "FP32"),
    "out of range": one("int_contents", b"\x01\x80\x01", "INT8"),
    "beside raw contents": one("int_contents", b"\x01") + sized(7, bytes(4)),
    "lengths of five octets": sized(
        5, HEAD["INT32"] + sized(5, sized(2, b"\x01", 4), 4), 4
    ),
    "a name that is not UTF-8": sized(5, sized(1, b"\xff") + sized(5, THREE)),
    "a field of number 0 after them": one("int_contents", b"\x01") + b"\x02\x00",
}
UNUSUAL = {
    "contents in two pieces": sized(5, HEAD["INT32"] + sized(5, THREE) * 2),
    "elements in two pieces": sized(5, HEAD["INT32"] + sized(5, THREE * 2)),
    "of two fields": sized(5, HEAD["INT32"] + sized(5, THREE + sized(3, b"\x01"))),
    "of none": sized(5, HEAD["INT32"] + sized(5, b"")),
    "not packed": sized(5, HEAD["INT32"] + sized(5, b"\x10\x01\x10\x02")),
    "bytes": sized(5, HEAD["BYTES"] + sized(5, sized(8, b"\x01"))),
    "no elements, of another datatype": one("int_contents", b"", "FP32"),
    "an element cut off": one("int_contents", b"\x01\x80"),
    "an element of eleven octets": one("int_contents", b"\x80" * 10 + b"\x01"),
    "a float cut off": one("fp32_contents", bytes(5), "FP32"),
    "longer than the message": sized(7, bytes(4))[:-1],
    "longer than their input": sized(5, HEAD["INT32"] + sized(5, THREE)[:-1]) + THREE,
    "a tag of two octets": b"\xba\x00\x04" + bytes(4),
    "in a field that is not known": sized(23, sized(7, bytes(4))),
    "in a group": b"\x4b" + sized(7, bytes(4)) + b"\x4c",
    "a length of six octets": b"\x3a" + varint(4, 5) + bytes(4),
    "of an input in two octets": b"\xaa\x00" + one("int_contents", b"\x01")[1:],
}


@pytest.mark.parametrize("form", USUAL)
def test_usual_contents_bypass_protobuf(form: str) -> None:
    """The request or the error is the same, whatever the elements are."""
    assert grpc_wire.split(USUAL[form], 0, 0)
    assert outcome(USUAL[form], NEVER) == outcome(USUAL[form], 0)


@pytest.mark.parametrize("least", [0, NEVER], ids=["past protobuf", "by protobuf"])
def test_contents_of_both_kinds_are_refused(least: int) -> None:
    """An input has either typed or raw contents."""
    with pytest.raises(InvalidRequest, match="both int_contents and raw_input_conte"):
        grpc_codec.decode(grpc_codec.parse(USUAL["beside raw contents"], least, least))


@pytest.mark.parametrize("form", UNUSUAL)
def test_unusual_contents_are_left_to_protobuf(form: str) -> None:
    """Forms that encoders do not write are left to protobuf, which knows all rules."""
    assert grpc_wire.split(UNUSUAL[form], 0, 0) is None
    assert outcome(UNUSUAL[form], NEVER) == outcome(UNUSUAL[form], 0)


def sample(datatype: str, count: int = 600) -> Array:
    """Elements of any size that the datatype has, of any sign."""
    rng = np.random.default_rng(5)
    dtype = np.dtype(DTYPES[datatype])
    if datatype == "BYTES":
        return octets(*[b"%d" % i for i in range(count)])
    if datatype == "BOOL":
        return rng.integers(0, 2, count).astype(bool)
    if dtype.kind in "iu":
        edges = [np.iinfo(dtype).min, np.iinfo(dtype).max, 0, 1, 127]
        wide = rng.integers(-(2**63), 2**63 - 1, count) >> rng.integers(0, 64, count)
        return np.array([*edges, *wide.astype(dtype).tolist()], dtype)
    return rng.normal(size=count).astype(dtype)


def inputs_of(tensors: list[Named], in_raw: bool) -> tuple[grpc_codec.WireRequest, Any]:
    data = wire_request("echo", tensors, in_raw).SerializeToString()
    received = grpc_codec.parse(data, 1, 1)
    return received, grpc_codec.decode(received).inputs


@pytest.mark.parametrize(
    ("datatype", "in_raw"),
    [(name, True) for name in DTYPES] + [(name, False) for name in CONTENTS],
)
def test_bulky_contents_bypass_protobuf(datatype: str, in_raw: bool) -> None:
    """Numbers in the usual form never become a list, and lose nothing."""
    array = sample(datatype)
    tensors = [Named("x", datatype, array), Named("y", datatype, array[:7])]
    received, got = inputs_of(tensors, in_raw)
    assert not received.message.raw_input_contents
    if in_raw:
        assert [raw(array), raw(array[:7])] == received.raw
    else:
        expected = {} if datatype == "BYTES" else {0, 1}
        assert set(expected) == set(received.typed)
    for tensor, sent in zip(got, tensors, strict=True):
        assert raw(sent.array) == raw(tensor.as_numpy())
        assert tensor.as_numpy().dtype == DTYPES[datatype]


@pytest.mark.parametrize("in_raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_arrays_are_views_on_the_request(datatype: str, in_raw: bool) -> None:
    """Aligned data in the request is not copied, and no array is writable."""
    array = sample(datatype)
    views = 0
    for pad in range(array.itemsize):
        wire = wire_request("e" * (pad + 1), [Named("x", datatype, array)], in_raw)
        data = wire.SerializeToString()
        (tensor,) = grpc_codec.decode(grpc_codec.parse(data, 0, 0)).inputs
        got = tensor.as_numpy()
        views += np.shares_memory(got, np.frombuffer(data, np.uint8))
        assert got.flags.aligned
        assert not got.flags.writeable
        assert array.tobytes() == got.tobytes()
    assert 1 == views


@pytest.mark.parametrize("count", [3, 3000], ids=["small", "large"])
@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_of_any_size_are_read_only(datatype: str, count: int) -> None:
    """A handler that writes to its input fails on small requests as on large ones."""
    tensor = Named("x", datatype, sample(datatype, count))
    data = wire_request("echo", [tensor], in_raw=False).SerializeToString()
    (got,) = grpc_codec.decode(grpc_codec.parse(data)).inputs
    assert not got.as_numpy().flags.writeable


def test_root_is_a_list_of_python_numbers() -> None:
    """`root` holds Python's own numbers, as handlers of the upstream package expect."""
    array = np.array([1.5, -2.0, np.inf], "<f4")
    received, (tensor,) = inputs_of([Named("x", "FP32", array)], in_raw=False)
    assert received.typed
    assert [1.5, -2.0, float("inf")] == tensor.data.root
    assert all(type(value) is float for value in tensor.data.root)


@pytest.mark.parametrize("least", [0, NEVER], ids=["past protobuf", "by protobuf"])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_floats_that_are_not_finite_pass(datatype: str, least: int) -> None:
    """Typed contents have the datatype already, so nothing can be out of its range."""
    array = np.array([np.nan, np.inf, -np.inf, np.finfo(DTYPES[datatype]).max])
    tensor = Named("x", datatype, array.astype(DTYPES[datatype]))
    data = wire_request("echo", [tensor], in_raw=False).SerializeToString()
    (got,) = grpc_codec.decode(grpc_codec.parse(data, least, least)).inputs
    np.testing.assert_array_equal(tensor.array, got.as_numpy())


@pytest.mark.parametrize("value", [-129, 128, 300, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("least", [0, NEVER], ids=["past protobuf", "by protobuf"])
def test_integer_out_of_range_is_refused(value: int, least: int) -> None:
    """The text is the same as in every other encoding."""
    with pytest.raises(ValueError, match="element 2 ") as told:
        from_list([1, 2, value], "INT8")
    wire = message("ModelInferRequest")()
    added = wire.inputs.add(name="x", datatype="INT8", shape=[3])
    added.contents.int_contents.extend([1, 2, value])
    received = grpc_codec.parse(wire.SerializeToString(), least, least)
    with pytest.raises(InvalidRequest) as refused:
        grpc_codec.decode(received)
    assert f"input 'x': {told.value}" == str(refused.value)


@pytest.mark.parametrize(
    ("in_raw", "small", "large"),
    [(False, 4, 1000), (True, 60_000, 80_000)],
    ids=["typed", "raw"],
)
def test_small_request_is_left_to_protobuf(
    in_raw: bool, small: int, large: int
) -> None:
    """A request is not split where that takes longer than it saves."""
    for size, is_split in ((small, False), (large, True)):
        tensor = Named("x", "FP32", np.zeros(size, "<f4"))
        wire = wire_request("echo", [tensor], in_raw=in_raw)
        assert is_split is bool(grpc_wire.split(wire.SerializeToString()))


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda wire: wire.inputs.extend([wire.inputs[0]] * 200),
        lambda wire: wire.inputs[0].MergeFromString(b"\x18\x01" * 200),
    ],
    ids=["inputs", "dimensions"],
)
def test_message_of_many_fields_is_left_to_protobuf(
    spoilt: Callable[[Any], None],
) -> None:
    """No request makes the loops over its fields long."""
    wire = wire_request("echo", [Named("x", "FP32", sample("FP32"))], in_raw=False)
    assert grpc_wire.split(wire.SerializeToString())
    wire = wire_request("echo", [Named("x", "FP32", sample("FP32"))], in_raw=False)
    spoilt(wire)
    data = wire.SerializeToString() + sized(9, b"") * 200
    assert grpc_wire.split(data) is None


# -- writing ------------------------------------------------------------------

ASKED = {
    in_raw: grpc_codec.parse(
        wire_request("m", [Named("x", "FP32", sample("FP32", 1))], in_raw)
        .SerializeToString()
    )
    for in_raw in (True, False)
}  # fmt: skip


def reference(response: InferenceResponse, in_raw: bool) -> Any:
    """Return the answer as protobuf alone writes it."""
    wire = message("ModelInferResponse")(
        model_name=response.model_name, model_version="", id=response.id or ""
    )
    if response.parameters:
        wire.parameters["p"].int64_param = 5
    for tensor in response.outputs:
        added = wire.outputs.add(
            name=tensor.name, datatype=tensor.datatype.value, shape=tensor.shape
        )
        if tensor.parameters:
            added.parameters["p"].int64_param = 5
        if in_raw:
            wire.raw_output_contents.append(raw(tensor.as_numpy()))
        else:
            field = getattr(added.contents, CONTENTS[tensor.datatype.value])
            field.extend(tensor.as_numpy().ravel().tolist())
    return wire


@st.composite
def outputs(draw: st.DrawFn, datatypes: list[str]) -> ResponseOutput:
    """An output of few elements or of many, contiguous in memory or not."""
    datatype = draw(st.sampled_from(datatypes))
    count = draw(st.sampled_from([0, 1, 4, 17, 1025, 3000]))
    array = np.resize(sample(datatype), count)
    if datatype in INTEGERS:
        small = [array & 0x01, array & 0x7F, -(array & 0x01)]
        array = draw(st.sampled_from([array, array, *small]))
    step = draw(st.sampled_from([1, 1, 2, -1]))
    return ResponseOutput(
        name=draw(st.sampled_from(["x", "", "ü" * 200])),
        shape=list(array[::step].shape),
        datatype=datatype,
        parameters=draw(st.sampled_from([None, Parameters.model_validate({"p": 5})])),
        data=TensorData(array[::step]),
    )


@pytest.mark.parametrize("in_raw", [True, False], ids=["raw", "typed"])
@FEW
@given(data=st.data())
def test_an_answer_is_the_message_that_protobuf_writes(
    in_raw: bool, data: st.DataObject
) -> None:
    """Every parser reads the same from it, and nothing is written twice."""
    datatypes = list(DTYPES) if in_raw else list(CONTENTS)
    response = InferenceResponse(
        model_name="m",
        id=data.draw(st.sampled_from([None, "7"])),
        parameters=data.draw(st.sampled_from([None, {"p": 5}])),
        outputs=data.draw(st.lists(outputs(datatypes), max_size=3)),
    )
    written = grpc_codec.encode(ASKED[in_raw], response)
    expected = reference(response, in_raw)
    assert expected == message("ModelInferResponse").FromString(written)
    assert expected.ByteSize() == len(written)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_written_answers_can_be_read_back(datatype: str) -> None:
    """Both directions use one form, to the last bit; NaN keeps its own bits."""
    array = np.resize(sample(datatype), 3000)
    if datatype in ("FP32", "FP64"):
        array[0] = np.frombuffer(b"\x01\0\x80\x7f" * 2, array.dtype)[0]
    field = CONTENTS[datatype]
    contents = b"".join(grpc_wire.encode_field(5, *grpc_wire.pack(array, field)))
    described = sized(1, b"x") + sized(2, datatype.encode()) + sized(3, varint(3000))
    received = grpc_codec.parse(sized(5, described + contents))
    assert [field] == [name for name, _ in received.typed.values()]
    ((got,),) = [grpc_codec.decode(received).inputs]
    assert array.tobytes() == got.as_numpy().tobytes()


@pytest.mark.parametrize("datatype", ["INT64", "UINT64"])
def test_integers_encode_as_in_protobuf(
    datatype: str,
) -> None:
    """From 1 octet to 10, of either sign."""
    field, rng = CONTENTS[datatype], np.random.default_rng(5)
    for width in range(64):
        low, high = (-(2**width), 2**width) if datatype == "INT64" else (0, 2 << width)
        array = rng.integers(low, high, 2100, DTYPES[datatype])
        wire = message("InferTensorContents")(**{field: array.tolist()})
        assert wire.SerializeToString() == b"".join(grpc_wire.pack(array, field))


def test_a_boolean_of_other_bits_is_true() -> None:
    """An octet of a handler's array that is neither 0 nor 1 does not spoil the rest."""
    array = np.full(3000, 0x80, np.uint8).view(np.bool_)
    output = ResponseOutput(
        name="x", shape=[3000], datatype="BOOL", data=TensorData(array)
    )
    response = InferenceResponse(model_name="m", outputs=[output])
    written = grpc_codec.encode(ASKED[False], response)
    (got,) = message("ModelInferResponse").FromString(written).outputs
    assert [True] * 3000 == list(got.contents.bool_contents)
