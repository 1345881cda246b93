"""The codecs in process: they lose nothing and raise only the host's errors."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oip_handler.boundary import check_request
from oip_handler.errors import HandlerFault, OIPError, PayloadTooLarge
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    ResponseOutput,
)
from oip_host.edge.grpc import codec as grpc_codec
from oip_host.edge.grpc.messages import message
from oip_host.edge.rest import codec as rest_codec
from oip_host.edge.rest.compression import choose_encoding, compress, decompress
from oip_host.edge.transport.error_body import error_body
from support.carriers import (
    CONTENTS,
    DTYPES,
    LENGTH,
    Array,
    Named,
    binary_input,
    carries,
    json_input,
    octets,
    raw,
    rest_outputs,
    same,
    wire_outputs,
    wire_request,
)

FEW = settings(max_examples=25)
MANY = settings(max_examples=400)
SHAPES = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def tensors(draw: st.DrawFn, datatype: str, text: bool = False) -> Named:
    """A tensor of any shape and any bits; BYTES of any bytes, or of text alone."""
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    if datatype == "BYTES":
        element = st.text(max_size=9).map(str.encode) if text else st.binary(max_size=9)
        flat = draw(st.lists(element, min_size=count, max_size=count))
        return Named("x", datatype, octets(*flat).reshape(shape))
    size = count * np.dtype(DTYPES[datatype]).itemsize
    buffer = draw(st.binary(min_size=size, max_size=size))
    if datatype == "BOOL":
        buffer = bytes(octet & 1 for octet in buffer)
    array: Array = np.frombuffer(buffer, DTYPES[datatype]).reshape(shape)
    if text and array.dtype.kind in "fV":
        with np.errstate(invalid="ignore"):  # a signalling NaN tells so
            array = np.where(np.isfinite(array), array, np.zeros(1, array.dtype))
    return Named("x", datatype, array)


def answered(request: InferenceRequest) -> InferenceResponse:
    """Return the answer of a handler that echoes its inputs."""
    check_request(request)
    outputs = [
        ResponseOutput(
            name=tensor.name,
            shape=tensor.shape,
            datatype=tensor.datatype,
            data=tensor.data,
        )
        for tensor in request.inputs
    ]
    return InferenceResponse(model_name="echo", outputs=outputs)


def through_rest(head: dict[str, Any], rest: bytes, length: bool) -> list[Named]:
    """Send a REST request through both codecs."""
    body = json.dumps(head).encode()
    request = rest_codec.decode(body + rest, len(body) if length else None)
    content, size = rest_codec.encode(request, answered(request))
    headers = {} if size is None else {LENGTH: str(size)}
    return rest_outputs(SimpleNamespace(headers=headers, content=content))


def through_grpc(tensor: Named, in_raw: bool) -> list[Named]:
    """Send a gRPC request through both codecs."""
    sent = wire_request("echo", [tensor], in_raw).SerializeToString()
    wire = grpc_codec.parse(sent)
    answer = grpc_codec.encode(wire, answered(grpc_codec.decode(wire)))
    return wire_outputs(message("ModelInferResponse").FromString(answer))


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("datatype", DTYPES)
@FEW
@given(data=st.data())
def test_json_loses_nothing(datatype: str, nested: bool, data: st.DataObject) -> None:
    """Whatever JSON can carry comes back to the last bit."""
    tensor = data.draw(tensors(datatype, text=True))
    assert carries("JSON flat", datatype, tensor.array)
    head = {"inputs": [json_input(tensor, nested)]}
    (got,) = through_rest(head, b"", length=False)
    assert same(tensor, got)


@pytest.mark.parametrize("datatype", DTYPES)
@FEW
@given(data=st.data())
def test_rest_binary_loses_nothing(datatype: str, data: st.DataObject) -> None:
    """Every bit pattern comes back, NaN's and infinity's too."""
    tensor = data.draw(tensors(datatype))
    head = {
        "inputs": [binary_input(tensor)],
        "parameters": {"binary_data_output": True},
    }
    (got,) = through_rest(head, raw(tensor.array), length=True)
    assert same(tensor, got)


@pytest.mark.parametrize("datatype", DTYPES)
@FEW
@given(data=st.data())
def test_grpc_raw_loses_nothing(datatype: str, data: st.DataObject) -> None:
    """Every bit pattern comes back, NaN's and infinity's too."""
    tensor = data.draw(tensors(datatype))
    (got,) = through_grpc(tensor, in_raw=True)
    assert same(tensor, got)


@pytest.mark.parametrize("datatype", CONTENTS)
@FEW
@given(data=st.data())
def test_grpc_typed_loses_nothing(datatype: str, data: st.DataObject) -> None:
    """Every value comes back; Python itself makes a signalling NaN a quiet one."""
    tensor = data.draw(tensors(datatype))
    if datatype == "FP32":
        quiet = np.where(np.isnan(tensor.array), np.float32(np.nan), tensor.array)
        tensor = Named("x", datatype, quiet.astype("<f4"))
    (got,) = through_grpc(tensor, in_raw=False)
    assert same(tensor, got)


# -- whatever comes -----------------------------------------------------------

WIDE = Named("a", "FP32", np.array([[1.5, -2.0]], "<f4"))
WORDS = Named("b", "BYTES", octets(b"text", b"\xff"))
HEAD = json.dumps(
    {
        "id": "1",
        "parameters": {"binary_data_output": True, "p": 0.5},
        "inputs": [binary_input(WIDE), binary_input(WORDS)],
        "outputs": [{"name": "a", "parameters": {"binary_data": False}}],
    }
).encode()
BODY = HEAD + raw(WIDE.array) + raw(WORDS.array)
RAW_WIRE = wire_request("echo", [WIDE, WORDS], in_raw=True).SerializeToString()
TYPED_WIRE = wire_request("echo", [WIDE, WORDS], in_raw=False).SerializeToString()


def mutations(whole: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one stretch of them replaced by other bytes."""

    def replaced(at: int, size: int, by: bytes) -> bytes:
        return whole[:at] + by + whole[at + size :]

    places = st.integers(0, len(whole))
    return st.builds(replaced, places, st.integers(0, 6), st.binary(max_size=6))


def told_or_taken(call: Callable[[], Any]) -> None:
    """Expect success, or an error with a text that a client may see."""
    refusal: OIPError | None = None
    try:
        call()
    except OIPError as error:
        refusal = error
    assert refusal is None or (str(refusal) and 400 <= refusal.http_status < 500)


def rest_call(body: bytes, length: int | None) -> Callable[[], Any]:
    return lambda: check_request(rest_codec.decode(body, length))


LENGTHS = st.none() | st.just(len(HEAD)) | st.integers(-1, 2 * len(BODY))


@MANY
@given(st.binary() | mutations(BODY), LENGTHS)
def test_no_bytes_break_the_rest_codec(body: bytes, length: int | None) -> None:
    """Arbitrary bytes, and good ones with a fault, are taken or refused."""
    told_or_taken(rest_call(body, length))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([*DTYPES, "x", "fp32"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["binary_data_size", "content_type", "p"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | VALUES,
        "shape": SHAPES | VALUES,
        "datatype": st.sampled_from(list(DTYPES)) | VALUES,
        "data": st.lists(st.integers(-300, 300) | VALUES, max_size=5) | VALUES,
        "parameters": VALUES,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(FIELDS | VALUES, min_size=1, max_size=2) | VALUES},
    optional={
        "id": VALUES,
        "parameters": VALUES,
        "outputs": st.lists(FIELDS | VALUES, max_size=2) | VALUES,
    },
)


@MANY
@given(DOCUMENTS, st.binary(max_size=16))
def test_no_document_breaks_the_rest_codec(document: Any, rest: bytes) -> None:
    """Any JSON in any place is taken or refused."""
    head = json.dumps(document).encode()
    told_or_taken(rest_call(head + rest, len(head)))


@MANY
@given(st.binary() | mutations(RAW_WIRE) | mutations(TYPED_WIRE))
def test_no_bytes_break_the_grpc_codec(body: bytes) -> None:
    """Arbitrary bytes, and good messages with a fault, are taken or refused."""
    told_or_taken(lambda: check_request(grpc_codec.decode(grpc_codec.parse(body))))


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, mtime=0),
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("name", ENCODERS)
@FEW
@given(body=st.binary(max_size=3000), spare=st.integers(0, 3))
def test_compression_loses_nothing(name: str, body: bytes, spare: int) -> None:
    """The host restores what it or Python's modules compressed, up to the limit."""
    limit = len(body) + spare
    assert body == decompress(compress(body, name), name, limit)
    assert body == decompress(ENCODERS[name](body), name, limit)
    if body:
        with pytest.raises(PayloadTooLarge):
            decompress(compress(body, name), name, len(body) - 1)


@pytest.mark.parametrize("name", ENCODERS)
@MANY
@given(data=st.data(), limit=st.integers(0, 2000))
def test_no_bytes_break_decompression(
    name: str, data: st.DataObject, limit: int
) -> None:
    """Arbitrary streams are refused, and what is taken keeps within the limit."""
    body = data.draw(st.binary() | mutations(ENCODERS[name](BODY)))
    with contextlib.suppress(OIPError):
        assert len(decompress(body, name, limit)) <= limit


@MANY
@given(st.text(max_size=20) | st.from_regex(r"(gzip|deflate)(;q=[0-9.]+)?(,.*)?"))
def test_no_header_breaks_the_choice_of_an_encoding(header: str) -> None:
    """Whatever is asked for, the answer is one that the host writes, or none."""
    assert choose_encoding(header) in {None, *ENCODERS}


@MANY
@given(st.text(max_size=20))
def test_no_name_breaks_decompression(name: str) -> None:
    """A name is one of the supported encodings, or refused."""
    told_or_taken(lambda: decompress(b"", name, 10))


# -- values that JSON cannot carry ---------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**70, [1j]], ids=repr)
@pytest.mark.parametrize("level", ["answer", "output"])
def test_parameter_outside_json_is_a_handler_error(level: str, value: Any) -> None:
    """A parameter that JSON cannot carry is an error, and never null in the answer."""
    request = rest_codec.decode(
        json.dumps({"inputs": [json_input(WIDE)]}).encode(), None
    )
    response = answered(request)
    target = response if level == "answer" else response.outputs[0]
    target.parameters = Parameters.model_validate({"p": value})
    with pytest.raises(HandlerFault, match="JSON cannot carry"):
        rest_codec.encode(request, response)


def test_error_text_may_have_a_lone_surrogate() -> None:
    """Half a surrogate pair in a handler's error text does not break the answer."""
    expected = {"error": "a ? b"}
    assert expected == json.loads(error_body(ValueError("a \ud800 b")))
