"""The protocol's datatypes, and arrays of each from lists and from raw bytes.

The datatypes are those of the Open Inference Protocol ("Tensor Data Types" in
`inference_rest.md`) and BF16, which Triton added. The rules for an element stand here
only, and are applied to whole arrays.
"""

from __future__ import annotations

import struct
from enum import Enum
from itertools import chain
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Datatype",
    "as_bytes",
    "convert",
    "datatype_name",
    "datatype_of",
    "describe_value",
    "from_list",
    "from_numbers",
    "from_raw",
    "numpy_dtype",
    "to_raw",
    "unnest",
]

Array = NDArray[Any]


class Datatype(str, Enum):
    """The protocol's tensor datatypes."""

    __hash__ = str.__hash__  # that of Enum is a Python function, and these are keys

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_DATATYPES = {dtype: Datatype(name) for name, dtype in _DTYPES.items()}
_FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
_INTEGER = (int, np.integer)
_KINDS: dict[str, tuple[type, ...]] = {
    "BOOL": (bool, np.bool_),
    "BYTES": (str, bytes),
    **dict.fromkeys(_FLOATS, (float, int, np.floating, np.integer)),
}
_PLAIN_KINDS: dict[str, frozenset[type]] = {
    name: frozenset({float, int} if name in _FLOATS else {int}) for name in _DTYPES
} | {"BOOL": frozenset({bool}), "BYTES": frozenset({str, bytes})}
"""Element types that fit without a further check; a nested list has others."""
_CODES = {
    name: dtype.char
    for name, dtype in _DTYPES.items()
    if name not in ("BOOL", "BF16", "BYTES")
}
"""Each datatype's code in `struct`, which rejects a value out of range."""
_CODES |= {"INT64": "q", "UINT64": "Q", "FP16": "e"}


_JSON_KINDS = {dict: "an object", list: "an array", type(None): "null"}


def datatype_name(datatype: str) -> str:
    """Return the datatype's name as a plain `str`, also for another package's enum."""
    if type(datatype) is Datatype:
        return datatype._value_  # without the detour by which Enum finds `value`
    return getattr(datatype, "value", datatype)


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """Return the numpy dtype of a protocol datatype; `object` for BYTES.

    Raises ValueError for a name that the protocol does not have.
    """
    try:
        return _DTYPES[datatype]
    except (KeyError, TypeError):
        pass
    try:
        return _DTYPES[datatype_name(datatype)]
    except (KeyError, TypeError):
        known = ", ".join(_DTYPES)
        raise ValueError(
            f"unknown datatype {datatype!r}, expected one of {known}"
        ) from None


def datatype_of(dtype: np.dtype[Any]) -> Datatype:
    """Return the protocol datatype of a numpy dtype; BYTES for text and objects.

    Raises TypeError for a dtype that the protocol cannot carry (complex, datetime, …).
    """
    if dtype.kind in "USO":
        return Datatype.BYTES
    try:
        return _DATATYPES[dtype.newbyteorder("<")]
    except (KeyError, TypeError):
        raise TypeError(
            f"numpy dtype {dtype} has no datatype in the protocol"
        ) from None


def unnest(values: Any) -> tuple[list[Any], list[int]]:
    """Return the elements in row-major order and the shape of the nesting.

    Raises ValueError if the nesting is not rectangular.
    """
    if not isinstance(values, (list, tuple)):
        return [values], []
    level, shape = list(values), [len(values)]
    while level and isinstance(level[0], (list, tuple)):
        if not all(kind in (list, tuple) for kind in set(map(type, level))):
            raise ValueError("nested lists are not rectangular")
        lengths = set(map(len, level))
        if len(lengths) > 1:
            raise ValueError("nested lists are not rectangular")
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    return level, shape


def _check_kinds(flat: list[Any], name: str) -> None:
    """Raise TypeError if an element is not of a kind that the datatype accepts."""
    allowed = _KINDS.get(name, _INTEGER)
    wrong = {
        kind
        for kind in set(map(type, flat))
        if not issubclass(kind, allowed) or (kind is bool and name != "BOOL")
    }
    if not wrong:
        return
    if list in wrong or tuple in wrong:
        raise ValueError("nested lists are not rectangular")
    index = next(i for i, value in enumerate(flat) if type(value) in wrong)
    raise TypeError(
        f"element {index} is {describe_value(flat[index])}, expected a value of {name}"
    )


def describe_value(value: Any) -> str:
    """Return a value as an error text shows it: its type and its text, shortened.

    What JSON has another name for is named as JSON names it.
    """
    kind = _JSON_KINDS.get(type(value))
    if kind:
        return kind
    is_number = isinstance(value, (bool, int, float, np.generic))
    text = str(value) if is_number else repr(value)
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return f"the {type(value).__name__} {shown}"


def _range_error(flat: list[Any], name: str) -> ValueError:
    """Return an error that names the element out of the datatype's range."""
    if name in _FLOATS:
        return _overflow_error(flat, name)
    info = np.iinfo(_DTYPES[name])
    index = next(i for i, v in enumerate(flat) if not info.min <= v <= info.max)
    return ValueError(
        f"element {index} is {describe_value(flat[index])}, "
        f"expected {name}: {info.min} to {info.max}"
    )


def _overflow_error(flat: Any, name: str) -> ValueError:
    """Return an error that names the number too large for a float datatype."""
    try:
        wide = np.asarray(flat, dtype=np.float64)
    except OverflowError:
        return ValueError(f"an integer is too large for {name}")
    with np.errstate(over="ignore"):
        overflow = ~np.isfinite(wide.astype(_DTYPES[name])) & np.isfinite(wide)
    index = int(overflow.argmax())
    return ValueError(f"element {index} is {wide[index]}, beyond the range of {name}")


def _pack(flat: list[Any], name: str) -> Array:
    """Return numbers of the right kinds as an array; ValueError if one is out of range.

    `struct` converts and checks in one pass. That is faster than numpy's reading of a
    list, which also turns a float that is too large into an infinity.
    """
    try:
        if name == "BF16":
            return _narrow(np.array(flat, dtype=np.float64), name)
        array = np.empty(len(flat), _DTYPES[name])
        struct.pack_into(f"<{len(flat)}{_CODES[name]}", array.data, 0, *flat)
    except (struct.error, OverflowError):
        raise _range_error(flat, name) from None
    return array


def from_numbers(wide: Array, datatype: str) -> Array:
    """Return an array of the datatype from 64-bit numbers of its kind, as from JSON.

    Raises ValueError for a number out of range, with the text of `from_list`.
    """
    name = datatype_name(datatype)
    dtype = _DTYPES[name]
    if name in _FLOATS:
        return _narrow(wide, name)
    info = np.iinfo(dtype)
    if wide.size and not (info.min <= wide.min() and wide.max() <= info.max):
        raise _range_error(wide.ravel().tolist(), name)
    return wide.astype(dtype)


def _narrow(wide: Array, name: str) -> Array:
    """Convert doubles to a float datatype; ValueError if one is too large."""
    if name == "FP64":
        return wide
    with np.errstate(over="ignore"):
        array = wide.astype(_DTYPES[name])
    finite = np.isfinite(array)
    if not finite.all() and not np.array_equal(finite, np.isfinite(wide)):
        raise _overflow_error(wide.ravel(), name)
    return array


def from_list(values: Any, datatype: str) -> Array:
    """Return an array of the datatype from a flat or nested list, or one bare element.

    Its shape is the shape of the nesting. BYTES gives an object array of the same
    `str` and `bytes` elements. An integer is accepted as a float; no other element is
    converted.

    Raises TypeError for an element of the wrong kind, ValueError for one out of range
    and for ragged nesting.
    """
    name = datatype_name(datatype)
    if type(values) is list and _PLAIN_KINDS[name].issuperset(map(type, values)):
        return _fill(values, name)
    flat, shape = unnest(values)
    _check_kinds(flat, name)
    return _fill(flat, name).reshape(shape)


def _fill(flat: list[Any], name: str) -> Array:
    """Return a flat array of elements that are of the right kinds."""
    if name == "BYTES":
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
        return array
    return np.array(flat, np.bool_) if name == "BOOL" else _pack(flat, name)


def from_raw(buffer: memoryview | bytes, datatype: str) -> Array:
    """Return a flat array of raw tensor bytes.

    They are row-major and little-endian; each BYTES element follows its length. The
    array is a read-only view of the buffer, except for BYTES and for a buffer that is
    not aligned for the datatype. Raises ValueError if the size does not fit.
    """
    name = datatype_name(datatype)
    if name == "BYTES":
        return _bytes_from_raw(buffer)
    dtype = numpy_dtype(name)
    if len(buffer) % dtype.itemsize:
        raise ValueError(
            f"{len(buffer)} bytes are no whole number of {name} elements "
            f"of {dtype.itemsize} bytes"
        )
    if name == "BOOL":
        octets = np.frombuffer(buffer, np.uint8)
        return (octets if octets.max(initial=0) <= 1 else octets != 0).view(np.bool_)
    array = np.frombuffer(buffer, dtype)
    if not array.flags.aligned:  # native libraries need aligned memory
        array = array.copy()
        array.flags.writeable = False
    return array


def _bytes_from_raw(buffer: memoryview | bytes) -> Array:
    """Read elements of 4 bytes of length, little-endian, and that many of content."""
    buffer = bytes(buffer)  # slicing bytes is quicker than slicing a view
    elements: list[bytes] = []
    position, end = 0, len(buffer)
    while position < end:
        start = position + 4
        position = start + int.from_bytes(buffer[position:start], "little")
        if start > end or position > end:
            raise ValueError(
                f"BYTES element {len(elements)} reaches beyond the {end} bytes given"
            )
        elements.append(buffer[start:position])
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def to_raw(array: Array) -> bytes | memoryview:
    """Return the raw bytes of a tensor, in the form that `from_raw` reads."""
    if array.dtype == object:
        parts: list[bytes] = []
        for element in as_bytes(array).ravel().tolist():
            parts += (len(element).to_bytes(4, "little"), element)
        return b"".join(parts)
    dtype = _DTYPES[datatype_of(array.dtype)]
    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data


def as_bytes(array: Array) -> Array:
    """Return a BYTES tensor with each element as `bytes`; text becomes UTF-8."""
    flat = array.ravel().tolist()
    if set(map(type, flat)) <= {bytes}:
        return array
    _check_kinds(flat, "BYTES")
    out = np.empty(len(flat), dtype=object)
    out[:] = [value.encode() if isinstance(value, str) else value for value in flat]
    return out.reshape(array.shape)


def convert(array: Array, datatype: str) -> Array:
    """Convert a handler's array to the datatype that it declared.

    Widening is silent; where values could change, the rules of `from_list` apply.
    """
    name = datatype_name(datatype)
    dtype = numpy_dtype(name)
    if name == "BYTES":
        if array.dtype.kind not in "USO":
            raise TypeError(f"a numpy array of {array.dtype} is no {name} tensor")
        return array.astype(object)
    if array.dtype.kind in "fiu" and np.can_cast(array.dtype, dtype, casting="safe"):
        return array.astype(dtype)
    return from_list(array.tolist(), name)
