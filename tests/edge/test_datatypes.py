"""Every datatype in every encoding, there and back, equal to the last bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.carriers import (
    CARRIERS,
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
    same,
    wire_outputs,
    wire_request,
)
from support.process import Server
from support.wire import rpc, rpc_error

INTEGERS = [name for name in DTYPES if "INT" in name]
FLOATS = ["FP16", "BF16", "FP32", "FP64"]
BITS = {"FP16": "<u2", "BF16": "<u2", "FP32": "<u4", "FP64": "<u8"}
SHAPES: list[list[int]] = [[], [1], [0], [7], [2, 3], [2, 0, 3], [2, 3, 4], [1] * 8]
TEXT = [b"", b"text", "ü€😀".encode(), b"a\x00b", b"\x00", b'"\\\n\x1f']


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    with Server("--handlers=echo=fakes:Echo") as server:
        yield server.wait_until_ready()


def random_array(datatype: str, shape: list[int], seed: int = 7) -> Array:
    """Any finite elements of the datatype; BYTES are text, which JSON can carry."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    if datatype == "BYTES":
        return octets(*[TEXT[i] for i in rng.integers(0, len(TEXT), count)]).reshape(
            shape
        )
    if datatype == "BOOL":
        return rng.integers(0, 2, count).astype(bool).reshape(shape)
    array = np.frombuffer(rng.bytes(8 * count), DTYPES[datatype])[:count]
    if datatype in FLOATS:
        with np.errstate(invalid="ignore"):  # a signalling NaN tells so
            array = np.where(np.isfinite(array), array, np.ones(1, array.dtype))
    return array.reshape(shape)


def values(datatype: str, *elements: Any) -> Array:
    return np.array(elements, DTYPES[datatype])


def bits(datatype: str, *patterns: int) -> Array:
    """Return floats with these bit patterns."""
    return np.array(patterns, BITS[datatype]).view(DTYPES[datatype])


def random_bits(datatype: str) -> Array:
    """Five hundred random bit patterns, those of NaN and infinities left out."""
    return random_array(datatype, [500], seed=11)


CASES: dict[str, tuple[str, Array]] = {
    **{
        f"{datatype} {shape}": (datatype, random_array(datatype, shape))
        for datatype in DTYPES
        for shape in SHAPES
    },
    **{
        f"{datatype} ends": (
            datatype,
            values(datatype, np.iinfo(dtype).min, np.iinfo(dtype).max, 0, 1),
        )
        for datatype, dtype in ((name, DTYPES[name]) for name in INTEGERS)
    },
    **{f"{datatype} bits": (datatype, random_bits(datatype)) for datatype in FLOATS},
    "INT64 beyond 2**53": ("INT64", values("INT64", 2**53 + 1, -(2**53) - 1)),
    "UINT64 beyond 2**63": ("UINT64", values("UINT64", 2**63, 2**63 + 1, 2**64 - 2)),
    "FP16 edges": (
        "FP16",
        bits("FP16", 0x0001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x8000, 0x8001),
    ),
    "BF16 edges": (
        "BF16",
        bits("BF16", 0x0001, 0x007F, 0x0080, 0x7F7F, 0xFF7F, 0x8000, 0x8001),
    ),
    "FP32 edges": (
        "FP32",
        bits("FP32", 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0xFF7FFFFF, 1 << 31),
    ),
    "FP64 edges": (
        "FP64",
        bits("FP64", 1, (1 << 52) - 1, 1 << 52, 0x7FEFFFFFFFFFFFFF, 1 << 63),
    ),
    "FP16 not finite": ("FP16", bits("FP16", 0x7C00, 0xFC00, 0x7E00, 0x7E01)),
    "BF16 not finite": ("BF16", bits("BF16", 0x7F80, 0xFF80, 0x7FC0, 0x7FC1)),
    "FP32 not finite": ("FP32", bits("FP32", 0x7F800000, 0xFF800000, 0x7FC00000)),
    "FP64 not finite": ("FP64", bits("FP64", 0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48)),
    "BYTES text": ("BYTES", octets(*TEXT)),
    "BYTES any": ("BYTES", octets(bytes(range(256)), b"\xff\xfe", b"\xed\xa0\x80")),
    "BYTES long": ("BYTES", octets(b"x" * 70_000, b"", b"y" * 300)),
}
ALL = [
    pytest.param(carrier, datatype, array, id=f"{carrier}: {name}")
    for name, (datatype, array) in CASES.items()
    for carrier in CARRIERS
    if carries(carrier, datatype, array)
]


@pytest.mark.parametrize(("carrier", "datatype", "array"), ALL)
def test_a_tensor_comes_back_as_it_went(
    host: Server, carrier: str, datatype: str, array: Array
) -> None:
    """decode(encode(x)) is x to the last bit, with its name, datatype and shape."""
    sent = Named("x", datatype, array)
    (got,) = CARRIERS[carrier](host, "echo", [sent])
    assert same(sent, got), (array, got.array)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_all_datatypes_travel_in_one_request(host: Server, carrier: str) -> None:
    """A request may have inputs of every datatype, in their order."""
    sent = [
        Named(f"x {datatype}", datatype, random_array(datatype, [2, 3]))
        for datatype in DTYPES
        if carrier != "gRPC typed" or datatype in CONTENTS
    ]
    got = CARRIERS[carrier](host, "echo", sent)
    assert len(sent) == len(got)
    assert all(map(same, sent, got))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_typed_contents_have_no_sixteen_bit_floats(host: Server, datatype: str) -> None:
    """In gRPC, FP16 and BF16 are raw only, and the error says so."""
    wire = wire_request("echo", [Named("x", "FP32", values("FP32", 1.0))], in_raw=False)
    wire.inputs[0].datatype = datatype
    text = f"input 'x': {datatype} travels in raw_input_contents only"
    assert ("INVALID_ARGUMENT", text) == rpc_error(host, "ModelInfer", wire)


@pytest.mark.parametrize("datatype", FLOATS)
def test_json_has_no_nan(host: Server, datatype: str) -> None:
    """An answer that JSON cannot carry is an error that names the alternative."""
    tensor = Named("x", datatype, values(datatype, np.nan, np.inf))
    head = json.dumps({"inputs": [binary_input(tensor)]}).encode()
    answer = host.post(
        "/v2/models/echo/infer",
        content=head + raw(tensor.array),
        headers={LENGTH: str(len(head))},
    )
    text = (
        "output 'x' holds NaN or an infinity, which JSON cannot carry; "
        "ask for it with the parameter binary_data"
    )
    assert (500, {"error": text}) == (answer.status_code, answer.json())


def test_json_has_no_bytes_outside_utf_8(host: Server) -> None:
    """BYTES that are not UTF-8 are an error in JSON, never a replacement character."""
    tensor = Named("x", "BYTES", octets(b"\xff"))
    head = json.dumps({"inputs": [binary_input(tensor)]}).encode()
    answer = host.post(
        "/v2/models/echo/infer",
        content=head + raw(tensor.array),
        headers={LENGTH: str(len(head))},
    )
    text = (
        "output 'x' holds bytes that are not UTF-8, which JSON cannot carry; "
        "ask for it with the parameter binary_data"
    )
    assert (500, {"error": text}) == (answer.status_code, answer.json())


@pytest.mark.parametrize(
    ("datatype", "given", "expected"),
    [
        ("FP32", [1, 2], [1.0, 2.0]),
        ("FP64", [2**53, 18446744073709551615], [2.0**53, 2.0**64]),
        ("FP16", [0.1], [0.0999755859375]),
        ("BF16", [0.1], [0.10009765625]),
        ("FP32", [0.1], [0.1]),
        ("FP32", [1e-50], [0.0]),
    ],
    ids=["integers", "large integers", "FP16", "BF16", "FP32", "underflow"],
)
def test_a_number_is_rounded_to_its_datatype(
    host: Server, datatype: str, given: list[Any], expected: list[float]
) -> None:
    """An integer is accepted as a float, and a decimal becomes the nearest float."""
    entry = {"name": "x", "shape": [len(given)], "datatype": datatype, "data": given}
    answer = host.post("/v2/models/echo/infer", json={"inputs": [entry]})
    got = answer.json()["outputs"][0]["data"]
    assert values(datatype, *expected).tolist() == values(datatype, *got).tolist()


def test_a_scalar_has_the_shape_of_no_dimensions(host: Server) -> None:
    """`[]` is a shape: one element, and an answer of the same shape, flat."""
    tensor = Named("x", "INT32", values("INT32", 5)[0].reshape(()))
    answer = host.post("/v2/models/echo/infer", json={"inputs": [json_input(tensor)]})
    output = answer.json()["outputs"][0]
    assert ([], [5]) == (output["shape"], output["data"])


def test_grpc_answers_raw_with_an_fp16_output(host: Server) -> None:
    """One FP16 output makes the whole answer raw, as the protocol requires."""
    sent = [
        Named("a", "FP16", values("FP16", 1.5)),
        Named("b", "INT64", values("INT64", 2)),
    ]
    answer = rpc(host, "ModelInfer", wire_request("echo", sent, in_raw=True))
    assert 2 == len(answer.raw_output_contents)
    assert all(map(same, sent, wire_outputs(answer)))
