"""Datatypes and elements: every rule that both protocols share."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydantic import BaseModel, ValidationError

from oip_handler.datatypes import (
    Datatype,
    as_bytes,
    datatype_of,
    from_list,
    from_raw,
    numpy_dtype,
    to_raw,
)
from oip_handler.list_checks import (
    flatten,
    get_actual_shape,
    shape_is_valid,
    validate_datatype,
    validate_shape,
)
from oip_handler.messages import RequestInput, ResponseOutput
from oip_handler.tensors import TensorData, check, element_count

DTYPES: dict[str, tuple[Any, int]] = {
    "BOOL": (np.bool_, 1),
    "UINT8": (np.uint8, 1),
    "UINT16": (np.uint16, 2),
    "UINT32": (np.uint32, 4),
    "UINT64": (np.uint64, 8),
    "INT8": (np.int8, 1),
    "INT16": (np.int16, 2),
    "INT32": (np.int32, 4),
    "INT64": (np.int64, 8),
    "FP16": (np.float16, 2),
    "BF16": (ml_dtypes.bfloat16, 2),
    "FP32": (np.float32, 4),
    "FP64": (np.float64, 8),
}
INTEGERS = [name for name in DTYPES if "INT" in name]
FLOATS = ["FP16", "BF16", "FP32", "FP64"]
LARGEST = {
    "FP16": 65504.0,
    "BF16": 3.3895313892515355e38,
    "FP32": 3.4028234663852886e38,
    "FP64": 1.7976931348623157e308,
}


def elements(datatype: str) -> st.SearchStrategy[Any]:
    """Return a strategy for any element of the datatype, as JSON has it."""
    if datatype == "BOOL":
        return st.booleans()
    if datatype == "BYTES":
        return st.one_of(st.binary(max_size=8), st.text(max_size=8))
    if datatype in INTEGERS:
        info = np.iinfo(DTYPES[datatype][0])
        return st.integers(int(info.min), int(info.max))
    widths = {"FP16": 16, "FP64": 64}
    return st.floats(
        -LARGEST[datatype],
        LARGEST[datatype],
        width=widths.get(datatype, 32),  # type: ignore[arg-type]
    )


SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], list[Any]]:
    """Draw a datatype, a shape and its flat elements."""
    datatype = draw(st.sampled_from([*DTYPES, "BYTES"]))
    shape = list(draw(SHAPES))
    size = math.prod(shape)
    flat = draw(st.lists(elements(datatype), min_size=size, max_size=size))
    return datatype, shape, flat


def nest(flat: list[Any], shape: list[int]) -> Any:
    """Return the elements nested in the shape; for a scalar, the bare element."""
    if not shape:
        return flat[0]
    step = math.prod(shape[1:])
    return [nest(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def same(expected: Any, found: Any) -> bool:
    """Return whether two arrays hold the same bytes, so that NaN equals NaN."""
    return bool(to_raw(np.asarray(expected)) == to_raw(np.asarray(found)))


# -- datatypes ----------------------------------------------------------------


def test_datatypes_are_those_of_the_protocol() -> None:
    """Each datatype has its name, its dtype and its size in bytes."""
    assert [*DTYPES, "BYTES"] == sorted(
        (datatype.value for datatype in Datatype), key=[*DTYPES, "BYTES"].index
    )
    for name, (dtype, size) in DTYPES.items():
        assert np.dtype(dtype) == numpy_dtype(name)
        assert size == numpy_dtype(name).itemsize
        assert Datatype(name) is datatype_of(np.dtype(dtype))
    assert np.dtype(object) == numpy_dtype(Datatype.BYTES)


@pytest.mark.parametrize("name", ["FP8", "fp32", "", "<f4", None, 3, ["FP32"]])
def test_unknown_datatype_error_lists_the_known_ones(name: Any) -> None:
    """The error has the name that was found and all valid ones."""
    with pytest.raises(ValueError, match=r"unknown datatype .*, expected one of BOOL"):
        numpy_dtype(name)


@pytest.mark.parametrize("dtype", ["U3", "S3", "O"], ids=["text", "bytes", "object"])
def test_text_and_objects_are_bytes(dtype: str) -> None:
    """Arrays of text, bytes or objects have the datatype BYTES."""
    assert Datatype.BYTES is datatype_of(np.dtype(dtype))


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">u2"])
def test_byte_order_does_not_matter(dtype: str) -> None:
    """A big-endian array has the datatype and the values of a little-endian one."""
    array = np.array([1, 2], dtype=dtype)
    assert datatype_of(np.dtype(dtype[1:])) is datatype_of(array.dtype)
    assert b"\x01\x00" == bytes(to_raw(np.array([1], ">u2")))


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "m8[s]", "V4", "g"])
def test_dtype_without_a_datatype_is_refused(dtype: str) -> None:
    """Complex numbers, times and records have no datatype."""
    with pytest.raises(TypeError, match="has no datatype in the protocol"):
        datatype_of(np.dtype(dtype))


# -- lists and raw bytes ------------------------------------------------------


@given(tensors())
def test_a_nested_list_becomes_an_array_of_its_shape(
    tensor: tuple[str, list[int], list[Any]],
) -> None:
    """Every element keeps its place, and the shape is that of the nesting.

    After a dimension of 0 a list cannot show the dimensions that follow.
    """
    datatype, shape, flat = tensor
    array = from_list(nest(flat, shape), datatype)
    expected = shape[: shape.index(0) + 1] if 0 in shape else shape
    assert tuple(expected) == array.shape
    assert numpy_dtype(datatype) == array.dtype
    if datatype in ("BYTES", "BOOL", *INTEGERS):
        assert flat == array.ravel().tolist()
    else:
        assert same(np.array(flat, DTYPES[datatype][0]), array.ravel())


@given(tensors())
def test_raw_bytes_round_trip(
    tensor: tuple[str, list[int], list[Any]],
) -> None:
    """`from_raw` restores every element that `to_raw` wrote."""
    datatype, _, flat = tensor
    array = from_list(flat, datatype)
    raw = bytes(to_raw(array))
    if datatype != "BYTES":
        assert np.array(flat, numpy_dtype(datatype)).tobytes() == raw
    back = from_raw(raw, datatype)
    assert back.dtype == array.dtype
    assert same(array, back)
    assert raw == bytes(to_raw(back))


@given(st.sampled_from(list(DTYPES)), st.binary(max_size=64))
def test_any_whole_number_of_elements_is_read(datatype: str, raw: bytes) -> None:
    """A buffer of whole elements is read without loss, and any other is refused."""
    size = DTYPES[datatype][1]
    if len(raw) % size:
        with pytest.raises(ValueError, match=f"elements of {size} bytes"):
            from_raw(raw, datatype)
    elif datatype == "BOOL":
        assert [octet != 0 for octet in raw] == from_raw(raw, datatype).tolist()
    else:
        assert raw == bytes(to_raw(from_raw(raw, datatype)))


@given(st.binary(max_size=64))
def test_bytes_tensor_round_trips_or_is_refused(raw: bytes) -> None:
    """Wrong lengths are refused; all other buffers are written back unchanged."""
    if whole_elements(raw):
        assert raw == bytes(to_raw(from_raw(raw, "BYTES")))
    else:
        with pytest.raises(ValueError, match=f"beyond the {len(raw)} bytes given"):
            from_raw(raw, "BYTES")


def whole_elements(raw: bytes) -> bool:
    """Return whether the lengths in a BYTES tensor add up to its size."""
    while len(raw) >= 4:
        (size,) = struct.unpack_from("<I", raw)
        if len(raw) < 4 + size:
            return False
        raw = raw[4 + size :]
    return not raw


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_raw_tensors_share_the_buffers_memory(datatype: str) -> None:
    """An aligned buffer is not copied, and a read-only one cannot be written to."""
    buffer = np.arange(8, dtype=np.uint64).view(np.uint8) % 2
    array = from_raw(buffer.data, datatype)
    assert np.shares_memory(buffer, array)
    frozen = from_raw(bytes(16), datatype)
    with pytest.raises(ValueError, match="read-only"):
        frozen[0] = 1


@pytest.mark.parametrize("datatype", list(DTYPES))
def test_unaligned_buffer_becomes_an_aligned_array(datatype: str) -> None:
    """After a JSON part of any length the array is aligned, and read-only too."""
    expected = from_list([True, False] if datatype == "BOOL" else [1, 2], datatype)
    whole = b"?" + bytes(to_raw(expected))
    array = from_raw(memoryview(whole)[1:], datatype)
    assert same(expected, array)
    assert array.flags.aligned
    assert not array.flags.writeable


def test_any_nonzero_byte_is_true() -> None:
    """Bytes other than 0 and 1 are read as true and written as 1."""
    array = from_raw(b"\x00\x01\x02\xff", "BOOL")
    assert [False, True, True, True] == array.tolist()
    assert b"\x00\x01\x01\x01" == bytes(to_raw(array))


@pytest.mark.parametrize(
    "element",
    [b"", b"\x00", b"a\x00b\x00", b"\xff\xfe", "ü".encode(), bytes(70_000)],
    ids=["empty", "nul", "inner nul", "not utf-8", "utf-8", "long"],
)
def test_bytes_elements_keep_every_byte(element: bytes) -> None:
    """NUL bytes, bytes that are not text and any length pass unchanged."""
    raw = struct.pack("<I", len(element)) + element + struct.pack("<I", 1) + b"x"
    array = from_raw(raw, "BYTES")
    assert [element, b"x"] == array.tolist()
    assert raw == bytes(to_raw(array))
    assert [element, b"x"] == from_list([element, b"x"], "BYTES").tolist()


def test_text_is_utf_8_in_raw_form() -> None:
    """`str` elements of JSON stay text in a list and are UTF-8 as bytes."""
    array = from_list([["ü"], ["n"]], "BYTES")
    assert [["ü"], ["n"]] == array.tolist()
    assert [["ü".encode()], [b"n"]] == as_bytes(array).tolist()
    assert b"\x02\x00\x00\x00\xc3\xbc\x01\x00\x00\x00n" == to_raw(array)


@pytest.mark.parametrize(
    ("raw", "number"),
    [(b"\x01", 0), (b"\x05\x00\x00\x00abc", 0), (b"\x00\x00\x00\x00\x01\x00", 1)],
    ids=["half a length", "too long", "second"],
)
def test_truncated_bytes_tensor_is_refused(raw: bytes, number: int) -> None:
    """The error names the element that reaches beyond the buffer."""
    text = f"element {number} reaches beyond the {len(raw)} bytes"
    with pytest.raises(ValueError, match=text):
        from_raw(raw, "BYTES")


def test_noncontiguous_array_is_written_in_row_major_order() -> None:
    """Transposed and strided arrays are written in the order of their elements."""
    array = np.arange(6, dtype=np.int8).reshape(2, 3)
    assert bytes([0, 3, 1, 4, 2, 5]) == bytes(to_raw(array.T))
    assert bytes([0, 2]) == bytes(to_raw(array[0, ::2]))


# -- ranges and kinds ---------------------------------------------------------


@pytest.mark.parametrize("datatype", INTEGERS)
def test_limits_of_integers(datatype: str) -> None:
    """The smallest and the largest are accepted; the error for others has the range."""
    info = np.iinfo(DTYPES[datatype][0])
    low, high = int(info.min), int(info.max)
    assert [low, high] == from_list([low, high], datatype).tolist()
    for wrong in (low - 1, high + 1):
        with pytest.raises(ValueError, match=rf"^element 1 is the int {wrong}, "):
            from_list([0, wrong], datatype)
        with pytest.raises(ValueError, match=f"expected {datatype}: {low} to {high}$"):
            from_list([0, wrong], datatype)


@pytest.mark.parametrize("datatype", FLOATS)
def test_limits_of_floats(datatype: str) -> None:
    """The largest number is accepted; a larger one does not become an infinity."""
    largest = LARGEST[datatype]
    found = from_list([largest, -largest], datatype)
    assert [largest, -largest] == found.astype(np.float64).tolist()
    if datatype == "FP64":
        with pytest.raises(ValueError, match="an integer is too large for FP64"):
            from_list([10**400], datatype)
        return
    text = rf"^element 1 is .*, beyond the range of {datatype}$"
    with pytest.raises(ValueError, match=text):
        from_list([0.0, largest * 1.1], datatype)


@pytest.mark.parametrize("datatype", FLOATS)
def test_nan_and_infinities_are_floats(datatype: str) -> None:
    """NaN and the infinities, which binary tensors may hold, are kept."""
    found = from_list([math.inf, -math.inf, math.nan], datatype).astype(np.float64)
    assert [math.inf, -math.inf] == found[:2].tolist()
    assert math.isnan(found[2])


@pytest.mark.parametrize("datatype", FLOATS)
def test_integer_is_accepted_for_a_float(datatype: str) -> None:
    """JSON writes 1 for 1.0."""
    assert [1.0, 2.5] == from_list([1, 2.5], datatype).astype(np.float64).tolist()


WRONG: dict[str, list[Any]] = {
    "BOOL": [0, 1, 1.0, "true", None, {}, b"1"],
    "BYTES": [0, 1.5, True, None, {}],
    **{name: [1.0, True, np.float32(1), "1", None, {}] for name in INTEGERS},
    **{name: [True, np.bool_(1), "1.0", None, {}, b"1", 1j] for name in FLOATS},
}


@pytest.mark.parametrize(
    ("datatype", "wrong"),
    [
        pytest.param(datatype, wrong, id=f"{datatype}-{wrong!r}")
        for datatype, values in WRONG.items()
        for wrong in values
    ],
)
def test_element_of_another_kind_is_refused(datatype: str, wrong: Any) -> None:
    """No kind is converted to another; the error has the element's index and value."""
    right = {"BOOL": True, "BYTES": "x"}.get(datatype, 1)
    text = rf"^element 1 is .*, expected a value of {datatype}$"
    with pytest.raises(TypeError, match=text):
        from_list([right, wrong], datatype)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        ({}, "an object"),
        (True, "the bool True"),
        ("1", "the str '1'"),
        ("x" * 100, f"the str '{'x' * 36}..."),
    ],
    ids=["null", "object", "bool", "text", "long text"],
)
def test_error_shows_the_element_as_json(value: Any, shown: str) -> None:
    """The error uses the words of JSON, and cuts a long value."""
    with pytest.raises(TypeError) as caught:
        from_list([value], "INT32")
    assert f"element 0 is {shown}, expected a value of INT32" == str(caught.value)


@pytest.mark.parametrize("datatype", ["FP32", "INT32", "BOOL", "BYTES"])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: [[x], [x, x]],
        lambda x: [[x, x], [x]],
        lambda x: [[x], x],
        lambda x: [x, [x]],
        lambda x: [[[x]], [x]],
        lambda x: [[x], [[x]]],
        lambda x: [[], [x]],
        lambda x: [[x], []],
    ],
    ids=["short", "long", "bare", "list", "shallow", "deep", "empty", "end"],
)
def test_ragged_list_is_refused(datatype: str, make: Any) -> None:
    """A ragged list is not a tensor, wherever it is ragged."""
    element = {"BOOL": True, "BYTES": "x"}.get(datatype, 1)
    with pytest.raises(ValueError, match="nested lists are not rectangular"):
        from_list(make(element), datatype)


def test_tuples_nest_like_lists() -> None:
    """A handler may return tuples for lists."""
    assert [[1, 2], [3, 4]] == from_list(((1, 2), [3, 4]), "INT8").tolist()


@pytest.mark.parametrize("depth", [32, 65, 2000])
def test_nesting_has_numpys_depth_limit(depth: int) -> None:
    """Nesting up to numpy's limit is accepted; deeper nesting is a ValueError."""
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    if depth == 32:
        assert (1,) * 32 == from_list(nested, "INT8").shape
    else:
        with pytest.raises(ValueError, match="maximum supported dimension"):
            from_list(nested, "INT8")


# -- check --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "shape", "datatype"),
    [
        ([1, 2, 3, 4], [2, 2], "INT8"),
        ([[1, 2], [3, 4]], [2, 2], "INT8"),
        ([1.5], [], "FP32"),
        (1.5, [], "FP32"),
        ([], [0], "FP32"),
        ([], [3, 0, 2], "FP32"),
        ([1], [1, 1, 1], "UINT64"),
        (np.zeros((2, 2), np.float32), [2, 2], "FP32"),
        (np.zeros(4, np.float32), [2, 2], "FP32"),
        (np.zeros((), np.float32), [], "FP32"),
    ],
    ids=[
        "flat", "nested", "scalar in a list", "scalar", "empty", "empty in dimensions",
        "ones", "array", "flat array", "array scalar",
    ],
)  # fmt: skip
def test_data_that_fit_their_shape(data: Any, shape: list[int], datatype: str) -> None:
    """Flat data fit any shape with their number; nested data fit only their own."""
    check(TensorData(data), shape, datatype)
    assert tuple(shape) == TensorData(data).as_numpy(shape, datatype).shape


@pytest.mark.parametrize(
    ("data", "shape", "datatype", "text"),
    [
        ([1, 2], [3], "INT8", "shape [3] needs 3 elements, found 2"),
        ([1, 2], [], "INT8", "shape [] needs 1 elements, found 2"),
        ([], [1], "INT8", "shape [1] needs 1 elements, found 0"),
        ([1], [0], "INT8", "shape [0] needs 0 elements, found 1"),
        ([1], [-1], "INT8", "shape [-1] has the dimension -1, expected 0 or more"),
        (
            [[1, 2, 3]],
            [3, 1],
            "INT8",
            "nested lists have the shape [1, 3], expected [3, 1]",
        ),
        (
            np.zeros((2, 2), np.int8),
            [4],
            "INT8",
            "nested lists have the shape [2, 2], expected [4]",
        ),
        ([1], [2**63, 0], "INT8", f"shape [{2**63}, 0] needs 0 elements, found 1"),
        (
            [],
            [2**63, 0],
            "INT8",
            f"shape [{2**63}, 0] has too many dimensions, or too large ones",
        ),
        (
            [1],
            [1] * 65,
            "INT8",
            f"shape {[1] * 65} has too many dimensions, or too large ones",
        ),
    ],
    ids=[
        "too few", "scalar", "none", "one for none", "dynamic", "nesting", "array",
        "huge", "huge and empty", "dimensions",
    ],
)  # fmt: skip
def test_data_that_do_not_fit_their_shape(
    data: Any, shape: list[int], datatype: str, text: str
) -> None:
    """The error has the declared shape, the number it needs and what was found."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is below)
        check(TensorData(data), shape, datatype)
    assert text == str(caught.value)


@given(SHAPES)
def test_number_of_elements(shape: tuple[int, ...]) -> None:
    """It is numpy's size of the shape, and 1 for a scalar."""
    assert np.empty(shape).size == element_count(shape)


@pytest.mark.parametrize(
    ("array", "datatype", "expected"),
    [
        (np.array([1, 2], np.int32), "INT64", [1, 2]),
        (np.array([1, 2], np.int64), "INT8", [1, 2]),
        (np.array([1, 2], np.int64), "FP32", [1.0, 2.0]),
        (np.array([0.5]), "FP32", [0.5]),
        (np.array([0.5], np.float32), "FP64", [0.5]),
        (np.array([0.5], ">f4"), "FP32", [0.5]),
        (np.array([0.5], ml_dtypes.bfloat16), "FP32", [0.5]),
        (np.array(["a", "b"]), "BYTES", ["a", "b"]),
        (np.array([b"a"]), "BYTES", [b"a"]),
    ],
    ids=[
        "wider", "narrower", "float", "single", "double", "big-endian", "bf16", "text",
        "bytes",
    ],
)  # fmt: skip
def test_array_of_another_dtype_is_converted(
    array: Any, datatype: str, expected: list[Any]
) -> None:
    """A handler may give an array of any dtype whose values the datatype holds."""
    found = TensorData(array).elements(datatype)
    assert numpy_dtype(datatype) == found.dtype
    assert expected == found.tolist()


@pytest.mark.parametrize(
    ("array", "datatype", "kind"),
    [
        (np.array([300]), "INT8", ValueError),
        (np.array([-1]), "UINT8", ValueError),
        (np.array([1e39]), "FP32", ValueError),
        (np.array([1.0]), "INT8", TypeError),
        (np.array([True]), "INT8", TypeError),
        (np.array([True]), "FP32", TypeError),
        (np.array([1]), "BOOL", TypeError),
        (np.array([1]), "BYTES", TypeError),
        (np.array(["a"]), "FP32", TypeError),
        (np.array([1, None]), "BYTES", TypeError),
    ],
    ids=[
        "int range", "sign", "float range", "float", "bool", "bool for float", "int",
        "number", "text", "object",
    ],
)  # fmt: skip
def test_array_of_another_kind_is_refused(
    array: Any, datatype: str, kind: type[Exception]
) -> None:
    """The rules for arrays are those for lists."""
    with pytest.raises(kind):
        TensorData(array).as_numpy(array.shape, datatype)


# -- TensorData ---------------------------------------------------------------


def test_lists_and_arrays_are_kept_as_given() -> None:
    """A list becomes an array, or an array a list, only when it is accessed."""
    nested = [[1.0, 2.0], [3.0, 4.0]]
    data = TensorData(nested)
    assert data.array is None
    assert nested is data.root
    assert nested == data.elements("FP32").tolist()
    array = np.arange(3)
    data = TensorData(array)
    assert array is data.array
    assert [0, 1, 2] == data.root
    assert data.root is data.root


def test_array_is_not_copied() -> None:
    """as_numpy returns the array's own memory in the declared shape."""
    array = np.arange(6, dtype=np.float32)
    found = TensorData(array).as_numpy([2, 3], "FP32")
    assert np.shares_memory(array, found)
    assert (2, 3) == found.shape


def test_tensor_data_behaves_like_a_list() -> None:
    """Upstream handlers iterate over it, index it and take its length."""
    for data in (TensorData([1, 2, 3]), TensorData(np.array([1, 2, 3]))):
        assert [1, 2, 3] == list(data)
        assert (1, [2, 3], 3) == (data[0], data[1:], len(data))
        assert TensorData([1, 2, 3]) == data
        assert TensorData([1, 2]) != data
        assert [1, 2, 3] != data
        assert "TensorData(root=[1, 2, 3])" == repr(data)
        with pytest.raises(TypeError, match="unhashable"):
            hash(data)


def test_tensor_data_of_tensor_data_is_unwrapped() -> None:
    """Handlers that wrap a wrapped tensor lose nothing."""
    array = np.arange(2)
    assert array is TensorData(TensorData(array)).array
    assert [1] == TensorData(root=TensorData([1])).root


@pytest.mark.parametrize("datatype", [*DTYPES, "BYTES"])
def test_list_of_an_array_has_python_elements(datatype: str) -> None:
    """The elements are int, float, bool and bytes, not numpy scalars."""
    raw = bytes(to_raw(from_list(["x"] if datatype == "BYTES" else [
        True if datatype == "BOOL" else 1], datatype)))  # fmt: skip
    kinds: dict[str, type] = {"BOOL": bool, "BYTES": bytes}
    kind = kinds.get(datatype, float if datatype in FLOATS else int)
    assert kind is type(TensorData(from_raw(raw, datatype)).root[0])


class Holder(BaseModel):
    data: TensorData


@pytest.mark.parametrize("data", [[1, 2], np.array([1, 2])], ids=["list", "array"])
def test_pydantic_dumps_the_bare_list(data: Any) -> None:
    """In a message it dumps as the bare list, as upstream's RootModel does."""
    holder = Holder(data=TensorData(data))
    assert {"data": [1, 2]} == holder.model_dump()
    assert {"data": [1, 2]} == holder.model_dump(mode="json")
    assert {"data": [1, 2]} == json.loads(holder.model_dump_json())
    assert [1, 2] == holder.data.model_dump()
    assert holder == Holder.model_validate(holder.model_dump())
    assert holder == Holder.model_validate_json(holder.model_dump_json())
    assert holder == holder.model_copy(deep=True)


@pytest.mark.parametrize(
    "data", [[[1.0], [2.0]], TensorData([[1.0], [2.0]])], ids=["list", "data"]
)
def test_pydantic_accepts_lists_and_tensor_data(data: Any) -> None:
    """A message is made from plain JSON data or from messages; nesting is kept."""
    tensor = RequestInput.model_validate(
        {"name": "x", "shape": [2, 1], "datatype": "FP32", "data": data}
    )
    assert isinstance(tensor.data, TensorData)
    assert [[1.0], [2.0]] == tensor.data.root
    assert Datatype.FP32 is tensor.datatype
    expected = {
        "name": "x",
        "shape": [2, 1],
        "datatype": "FP32",
        "parameters": None,
        "data": [[1.0], [2.0]],
    }
    assert expected == json.loads(tensor.model_dump_json())
    assert "data" in RequestInput.model_json_schema()["properties"]


def test_pydantic_requires_data() -> None:
    """A tensor without data is refused."""
    with pytest.raises(ValidationError, match="data"):
        RequestInput.model_validate({"name": "x", "shape": [1], "datatype": "FP32"})


@given(tensors())
def test_from_numpy_and_as_numpy_are_inverse(
    tensor: tuple[str, list[int], list[Any]],
) -> None:
    """The array that comes back has the same datatype, shape and bytes."""
    datatype, shape, flat = tensor
    array = from_list(flat, datatype).reshape(shape)
    output = ResponseOutput.from_numpy("y", array)
    assert (shape, datatype) == (output.shape, output.datatype.value)
    output.validate_oip()
    assert tuple(shape) == output.as_numpy().shape
    assert same(array, output.as_numpy())


@pytest.mark.parametrize("array", [np.array([1j]), np.array([1, None])])
def test_output_without_a_datatype_is_refused(array: Any) -> None:
    """An array that no datatype can hold raises a TypeError at once."""
    with pytest.raises(TypeError):
        ResponseOutput.from_numpy("y", array)


# -- upstream's functions -----------------------------------------------------


@pytest.mark.parametrize(
    ("data", "flat", "shape"),
    [
        (5, [5], []),
        ([], [], [0]),
        ([1, 2], [1, 2], [2]),
        ([[1, 2], [3, 4]], [1, 2, 3, 4], [2, 2]),
        ([[[1]], [[2]]], [1, 2], [2, 1, 1]),
        ([[], []], [], [2, 0]),
        ("text", ["text"], []),
    ],
    ids=["scalar", "empty", "flat", "nested", "deep", "empty rows", "text"],
)
def test_flatten_and_get_actual_shape(
    data: Any, flat: list[Any], shape: list[int]
) -> None:
    """They return the elements in row-major order, and the length at each level."""
    assert flat == flatten(data)
    assert shape == get_actual_shape(data)


@pytest.mark.parametrize(
    "ragged", [[[1], [2, 3]], [[1], 2], [1, [2]]], ids=["length", "bare", "list"]
)
def test_ragged_list_has_no_elements_and_no_shape(ragged: Any) -> None:
    """Each of the functions refuses a ragged list."""
    for call in (flatten, get_actual_shape, lambda data: validate_shape([2], data)):
        with pytest.raises(ValueError, match="not rectangular"):
            call(ragged)
    with pytest.raises(ValueError, match="not rectangular"):
        shape_is_valid([2], ragged)


@pytest.mark.parametrize(
    ("shape", "data", "valid"),
    [
        ([4], [1, 2, 3, 4], True),
        ([2, 2], [1, 2, 3, 4], True),
        ([2, 2], [[1, 2], [3, 4]], True),
        ([4], [1, 2, 3], False),
        ([], 5, True),
        ([], [5, 6], False),
        ([0], [], True),
        ([-1, 2], [[1, 2], [3, 4]], True),
        ([-1, 3], [[1, 2], [3, 4]], False),
        ([-1], [[1, 2], [3, 4]], False),
        ([-1, -1], [[1, 2]], True),
    ],
    ids=[
        "flat", "flat in a shape", "nested", "too few", "scalar", "no scalar", "empty",
        "dynamic", "dynamic and wrong", "another depth", "all dynamic",
    ],
)  # fmt: skip
def test_shape_is_valid(shape: list[int], data: Any, valid: bool) -> None:
    """Data fit a shape by their number, and a shape with -1 by their nesting."""
    assert valid is shape_is_valid(shape, data)
    if valid:
        validate_shape(shape, data)
    else:
        with pytest.raises(ValueError, match="shape mismatch: declared"):
            validate_shape(shape, data)


def test_validate_shape_checks_the_nesting() -> None:
    """The same number of elements in another nesting is a mismatch."""
    with pytest.raises(ValueError, match=r"declared \[4, 1\], found \[2, 2\]"):
        validate_shape([4, 1], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("datatype", "flat"),
    [
        ("BOOL", [True]),
        ("UINT8", [255]),
        ("INT64", [-1]),
        ("FP32", [1.0, 2]),
        ("BYTES", ["a", b"b"]),
        (Datatype.FP16, [1.0]),
    ],
    ids=str,
)
def test_validate_datatype_accepts_matching_values(
    datatype: str, flat: list[Any]
) -> None:
    """Elements of the datatype's kind, and integers for floats, pass silently."""
    validate_datatype(datatype, flat)
    with pytest.raises(TypeError, match=f"element {len(flat)} is null"):
        validate_datatype(datatype, [*flat, None])


def test_validate_datatype_distinguishes_faults() -> None:
    """The wrong kind is a TypeError; the range and the datatype are ValueErrors."""
    with pytest.raises(TypeError, match="element 0 is the str 'a'"):
        validate_datatype("FP32", ["a"])
    with pytest.raises(ValueError, match="element 0 is the int 256"):
        validate_datatype("UINT8", [256])
    with pytest.raises(ValueError, match="unknown datatype 'FP33'"):
        validate_datatype("FP33", [1.0])
