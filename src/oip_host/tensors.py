"""Tensors: the protocol's datatypes, their elements, and the checks on both.

Elements travel as one numpy array from the socket to the handler and back; a Python
list is made only for a handler that reads `TensorData.root`. Every check is vectorised
and is the only place where its rule is written; REST and gRPC both come here.

The datatypes are those of the Open Inference Protocol ("Tensor Data Types" in
`inference_rest.md`) and BF16, which Triton added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import chain
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = [
    "DYNAMIC_SHAPE_SPECIFIER",
    "Datatype",
    "TensorData",
    "as_bytes",
    "check",
    "datatype_of",
    "element_count",
    "flatten",
    "from_list",
    "from_raw",
    "get_actual_shape",
    "numpy_dtype",
    "shape_is_valid",
    "to_raw",
    "validate_datatype",
    "validate_shape",
]

Array = NDArray[Any]

DYNAMIC_SHAPE_SPECIFIER = -1
"""A dimension of any size: legal in metadata, never in a request or an answer."""


class Datatype(str, Enum):
    """The protocol's tensor datatypes."""

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
_MOST_DIMENSIONS = 64
"""As many as an array can have."""
_FLOATS = frozenset({"FP16", "BF16", "FP32", "FP64"})
_INTEGER = (int, np.integer)
_KINDS: dict[str, tuple[type, ...]] = {
    "BOOL": (bool, np.bool_),
    "BYTES": (str, bytes),
    **dict.fromkeys(_FLOATS, (float, int, np.floating, np.integer)),
}


def _plain(datatype: str) -> str:
    """The datatype's name as a plain `str`, also for another package's enum."""
    return getattr(datatype, "value", datatype)


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of a protocol datatype; `object` for BYTES.

    Raises ValueError for a name that the protocol does not have.
    """
    try:
        return _DTYPES[_plain(datatype)]
    except (KeyError, TypeError):
        known = ", ".join(_DTYPES)
        raise ValueError(
            f"unknown datatype {datatype!r}, expected one of {known}"
        ) from None


def datatype_of(dtype: np.dtype[Any]) -> Datatype:
    """The protocol datatype of a numpy dtype; text and objects are BYTES.

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


def element_count(shape: Sequence[int]) -> int:
    """The number of elements of a tensor of this shape; 1 for a scalar (`[]`).

    Raises ValueError where a dimension is negative.
    """
    for size in shape:
        if size < 0:
            raise ValueError(
                f"shape {list(shape)} has the dimension {size}, expected 0 or more"
            )
    return math.prod(shape)


def _flatten(values: Any) -> tuple[list[Any], list[int]]:
    """The elements in row-major order and the shape of the nesting.

    Raises ValueError where the nesting is not rectangular.
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


def _checked_kinds(flat: list[Any], name: str) -> None:
    """Raise where an element is not of the kind that the datatype takes."""
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
        f"element {index} is {_shown(flat[index])}, expected a value of {name}"
    )


def _shown(value: Any) -> str:
    """A value as an error text shows it: its kind, and itself where it is short."""
    kind = {dict: "an object", type(None): "null"}.get(type(value))
    if kind:
        return kind
    text = (
        str(value) if isinstance(value, (bool, int, float, np.generic)) else repr(value)
    )
    return (
        f"the {type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
    )


def _out_of_range(flat: list[Any], name: str) -> ValueError:
    info = np.iinfo(_DTYPES[name])
    index = next(i for i, v in enumerate(flat) if not info.min <= v <= info.max)
    return ValueError(
        f"element {index} is {_shown(flat[index])}, "
        f"expected {name}: {info.min} to {info.max}"
    )


def _integers(flat: list[Any], name: str) -> Array:
    dtype = _DTYPES[name]
    info = np.iinfo(dtype)
    if flat and not (info.min <= min(flat) and max(flat) <= info.max):
        raise _out_of_range(flat, name)
    return np.array(flat, dtype=dtype)


def _floats(flat: list[Any], name: str) -> Array:
    try:
        wide = np.array(flat, dtype=np.float64)
    except OverflowError:
        raise ValueError(f"an integer is too large for {name}") from None
    if name == "FP64":
        return wide
    with np.errstate(over="ignore"):
        array = wide.astype(_DTYPES[name])
    overflow = ~np.isfinite(array) & np.isfinite(wide)
    if overflow.any():
        index = int(overflow.argmax())
        raise ValueError(
            f"element {index} is {wide[index]}, beyond the range of {name}"
        )
    return array


def from_list(values: Any, datatype: str) -> Array:
    """An array of the datatype from a flat or nested list (or one bare element).

    Its shape is the shape of the nesting. BYTES gives an object array of the very
    `str` and `bytes` elements. An integer is taken for a float, nothing else for
    anything else.

    Raises TypeError for an element of the wrong kind, ValueError for one out of range
    and for ragged nesting.
    """
    name = _plain(datatype)
    flat, shape = _flatten(values)
    _checked_kinds(flat, name)
    if name == "BYTES":
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
    elif name == "BOOL":
        array = np.array(flat, dtype=np.bool_)
    elif name in _FLOATS:
        array = _floats(flat, name)
    else:
        array = _integers(flat, name)
    return array.reshape(shape)


def from_raw(buffer: memoryview | bytes, datatype: str) -> Array:
    """A flat array on raw tensor bytes: row-major, little-endian, BYTES with lengths.

    It is a read-only view on the buffer, but for BYTES and where the buffer is not
    aligned for the datatype. Raises ValueError where the size does not fit.
    """
    name = _plain(datatype)
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
    if not array.flags.aligned:  # native libraries take no unaligned memory
        array = array.copy()
        array.flags.writeable = False
    return array


def _bytes_from_raw(buffer: memoryview | bytes) -> Array:
    """Elements of 4 bytes of length, little-endian, and as many bytes of content."""
    elements: list[bytes] = []
    at, end = 0, len(buffer)
    while at < end:
        start = at + 4
        at = start + int.from_bytes(buffer[at:start], "little")
        if start > end or at > end:
            raise ValueError(
                f"BYTES element {len(elements)} reaches beyond the {end} bytes given"
            )
        elements.append(bytes(buffer[start:at]))
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def to_raw(array: Array) -> bytes | memoryview:
    """The raw bytes of a tensor, in the form that `from_raw` reads."""
    if array.dtype == object:
        parts: list[bytes] = []
        for element in as_bytes(array).ravel().tolist():
            parts += (len(element).to_bytes(4, "little"), element)
        return b"".join(parts)
    dtype = _DTYPES[datatype_of(array.dtype)]
    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data


def as_bytes(array: Array) -> Array:
    """The same BYTES tensor with every element as `bytes`; text is UTF-8."""
    flat = array.ravel().tolist()
    if set(map(type, flat)) <= {bytes}:
        return array
    _checked_kinds(flat, "BYTES")
    out = np.empty(len(flat), dtype=object)
    out[:] = [value.encode() if isinstance(value, str) else value for value in flat]
    return out.reshape(array.shape)


class TensorData:
    """The elements of one tensor: an array, a list, or each made from the other.

    `root` is the list that upstream handlers read (`RootModel` there): nested where
    the client sent it nested, `str` elements for BYTES in JSON and `bytes` for BYTES
    in binary. `array` is the numpy array behind it, or None while there is only a list.
    """

    __slots__ = ("_list", "array")
    _list: Any
    array: Array | None

    def __init__(self, root: Any) -> None:
        if isinstance(root, TensorData):
            self._list, self.array = root._list, root.array
        elif isinstance(root, np.ndarray):
            self._list, self.array = None, root
        else:
            self._list, self.array = root, None

    @property
    def root(self) -> Any:
        """The elements as a list, made at the first reading."""
        if self._list is None and self.array is not None:
            self._list = self.array.tolist()
        return self._list

    def __iter__(self) -> Iterator[Any]:
        return iter(self.root)

    def __getitem__(self, index: Any) -> Any:
        return self.root[index]

    def __len__(self) -> int:
        return len(self.root if self.array is None else self.array)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        return bool(self.root == other.root)

    __hash__ = None  # type: ignore[assignment]  # a list inside, so unhashable as one

    def __repr__(self) -> str:
        return f"TensorData(root={self.root!r})"

    def model_dump(self, **_: Any) -> Any:
        """The elements as a list, as pydantic's RootModel gives them."""
        return self.root

    def elements(self, datatype: str) -> Array:
        """The elements as an array of the datatype, shaped as they were given.

        Raises TypeError or ValueError where an element does not fit (see `from_list`).
        """
        if self.array is None:
            self.array = from_list(self._list, datatype)
        elif self.array.dtype != numpy_dtype(datatype):
            self.array = _converted(self.array, _plain(datatype))
        return self.array

    def as_numpy(self, shape: Sequence[int], datatype: str) -> Array:
        """The tensor as one array of `shape`; BYTES as an object array of `bytes`.

        No copy is made where there is an array of the datatype already; it is read-only
        where its memory is the network's.
        """
        array = self.elements(datatype)
        if array.dtype == object:
            array = as_bytes(array)
        return array.reshape(tuple(shape))

    def validate_oip(self, shape: Sequence[int], datatype: str) -> None:
        """Raise ValueError or TypeError where the elements do not fit (see `check`)."""
        check(self, shape, datatype)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.any_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda data: data.root
            ),
        )


def _converted(array: Array, name: str) -> Array:
    """A handler's array in the datatype that it declared for it.

    Widening is silent; where values would change, `from_list`'s rules hold.
    """
    dtype = _DTYPES[name]
    if name == "BYTES":
        if array.dtype.kind not in "USO":
            raise TypeError(f"a numpy array of {array.dtype} is no {name} tensor")
        return array.astype(object)
    if array.dtype.kind in "fiu" and np.can_cast(array.dtype, dtype, casting="safe"):
        return array.astype(dtype)
    return from_list(array.tolist(), name)


def check(data: TensorData, shape: Sequence[int], datatype: str) -> None:
    """Hold the elements against a declared shape and datatype.

    Raises ValueError or TypeError, naming what was found and what was expected, where
    the datatype is unknown, a dimension is negative, an element is of the wrong kind or
    out of range, or the elements do not make up that shape.
    """
    numpy_dtype(datatype)
    if len(shape) > _MOST_DIMENSIONS:  # the product of many is long in the making
        raise _absurd(shape)
    count = element_count(shape)
    array = data.elements(datatype)
    if array.size != count:
        needed = count if count < 2**64 else "more than 2**64"
        raise ValueError(
            f"shape {_brief(shape)} needs {needed} elements, found {array.size}"
        )
    # a list without elements cannot tell the dimensions behind its zero
    told = list(shape) if count else list(shape)[: array.ndim]
    if array.ndim > 1 and list(array.shape) != told:
        raise ValueError(
            f"nested lists have the shape {list(array.shape)}, expected {list(shape)}"
        )
    try:
        array.reshape(tuple(shape))
    except (OverflowError, ValueError):
        raise _absurd(shape) from None


def _absurd(shape: Sequence[int]) -> ValueError:
    return ValueError(
        f"shape {_brief(shape)} has too many dimensions, or too large ones"
    )


def _brief(shape: Sequence[int]) -> str:
    """A shape as an error text shows it, cut where it is long."""
    text = str(list(shape[: _MOST_DIMENSIONS * 2]))
    return text if len(text) <= 320 else f"{text[:317]}..."


def _rectangular(data: Any) -> tuple[list[Any], list[int]]:
    flat, shape = _flatten(data)
    if not {list, tuple}.isdisjoint(map(type, flat)):
        raise ValueError("nested lists are not rectangular")
    return flat, shape


def flatten(data: Any) -> list[Any]:
    """The elements of a flat or nested list (or one bare element) as a flat list.

    Raises ValueError where the nesting is not rectangular.
    """
    return _rectangular(data)[0]


def get_actual_shape(data: Any) -> list[int]:
    """The lengths at each level of nesting of a rectangular list."""
    return _rectangular(data)[1]


def validate_datatype(expected_datatype: str, flat_data: list[Any]) -> None:
    """Raise TypeError or ValueError where an element is no value of the datatype."""
    numpy_dtype(expected_datatype)
    from_list(flat_data, expected_datatype)


def shape_is_valid(expected_shape: Sequence[int], tensor_data: Any) -> bool:
    """Whether a list fits a shape; a dimension of -1 there fits any length."""
    flat, actual = _rectangular(tensor_data)
    if DYNAMIC_SHAPE_SPECIFIER not in expected_shape:
        return len(flat) == element_count(expected_shape)
    return len(actual) == len(expected_shape) and all(
        want in (have, DYNAMIC_SHAPE_SPECIFIER)
        for have, want in zip(actual, expected_shape, strict=True)
    )


def validate_shape(expected_shape: Sequence[int], data: Any) -> None:
    """Raise ValueError where a list does not fit a shape, in number or in nesting."""
    actual = get_actual_shape(data)
    nested = len(actual) > 1 and DYNAMIC_SHAPE_SPECIFIER not in expected_shape
    if not shape_is_valid(expected_shape, data) or (
        nested and actual != list(expected_shape)
    ):
        raise ValueError(
            f"shape mismatch: declared {list(expected_shape)}, found {actual}"
        )
