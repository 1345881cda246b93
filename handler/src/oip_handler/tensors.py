"""Tensors: the elements of one, and what holds between them, a shape and a datatype.

Elements travel as one numpy array from the socket to the handler and back; a Python
list is made only for a handler that reads `TensorData.root`. REST and gRPC both come
here for their checks. The functions at the end are those of upstream's package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from oip_handler.datatypes import (
    Array,
    as_bytes,
    converted,
    flattened,
    from_list,
    numpy_dtype,
)

__all__ = [
    "DYNAMIC_SHAPE_SPECIFIER",
    "TensorData",
    "check",
    "element_count",
    "flatten",
    "get_actual_shape",
    "shape_is_valid",
    "validate_datatype",
    "validate_shape",
]

DYNAMIC_SHAPE_SPECIFIER = -1
"""A dimension of any size: legal in metadata, never in a request or an answer."""
_MOST_DIMENSIONS, _FEW_DIMENSIONS = 64, 32
"""As many as an array can have, and as many as it can have with any numpy."""


def element_count(shape: Sequence[int]) -> int:
    """The number of elements of a tensor of this shape; 1 for a scalar (`[]`).

    Raises ValueError where a dimension is negative.
    """
    if shape and min(shape) < 0:
        raise ValueError(
            f"shape {list(shape)} has the dimension {min(shape)}, expected 0 or more"
        )
    return math.prod(shape)


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
            self._list = listed(self.array)
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

    def __reduce__(self) -> tuple[type[TensorData], tuple[Any]]:
        # the array alone: pickle's protocol 5 leaves its memory where it is
        return TensorData, (self._list if self.array is None else self.array,)

    def __repr__(self) -> str:
        return f"TensorData(root={self.root!r})"

    def model_dump(self, **_: Any) -> Any:
        """The elements as a list, as pydantic's RootModel gives them."""
        return self.root

    def elements(self, datatype: str) -> Array:
        """The elements as an array of the datatype, shaped as they were given.

        Raises TypeError or ValueError where an element does not fit (see `from_list`).
        """
        dtype = numpy_dtype(datatype)
        if self.array is None:
            self.array = from_list(self._list, datatype)
        elif self.array.dtype != dtype:
            self.array = converted(self.array, datatype)
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
        made = core_schema.no_info_after_validator_function(
            cls, core_schema.any_schema()
        )
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), made],
            mode="left_to_right",
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda data: data.root
            ),
        )


def check(data: TensorData, shape: Sequence[int], datatype: str) -> None:
    """Hold the elements against a declared shape and datatype.

    Raises ValueError or TypeError, naming what was found and what was expected, where
    the datatype is unknown, a dimension is negative, an element is of the wrong kind or
    out of range, or the elements do not make up that shape.
    """
    if len(shape) > _MOST_DIMENSIONS:  # the product of many is long in the making
        raise _absurd(shape)
    count = element_count(shape)
    array = data.elements(datatype)
    if array.size != count:
        needed = count if count < 2**64 else "more than 2**64"
        raise ValueError(
            f"shape {_brief(shape)} needs {needed} elements, found {array.size}"
        )
    if array.ndim > 1:
        # a list without elements cannot tell the dimensions behind its zero
        told = list(shape) if count else list(shape)[: array.ndim]
        if list(array.shape) != told:
            raise ValueError(
                f"nested lists have the shape {list(array.shape)}, "
                f"expected {list(shape)}"
            )
    if not count or len(shape) > _FEW_DIMENSIONS:
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
    flat, shape = flattened(data)
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


_LONG = 64
"""Elements from which it is worth it."""
_FLOAT, _INT, _BOOL = np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_)
_LISTED = {"f": _FLOAT, "i": _INT, "u": _INT, "b": _BOOL}
"""What numpy makes of a list, by the kind of the array that the list was made of."""


def listed(array: Array) -> list[Any] | Any:
    """The elements as a list, nested as the array is; a bare element for a scalar."""
    elements = array.tolist()
    ordinary = array.dtype.kind in _LISTED and array.dtype != np.uint64
    if array.ndim != 1 or array.size < _LONG or not ordinary:
        return elements
    made = _Listed(elements)
    made.array = array
    return made


class _Listed(list[Any]):
    """A list made of an array, which it forgets when it is changed."""

    __slots__ = ("array",)
    array: Array | None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """What numpy would make of the list, without reading it."""
        if copy is False:
            raise ValueError("a list does not become an array without a copy")
        wanted = None if dtype is None else np.dtype(dtype)
        if self.array is not None and wanted in (None, self.array.dtype):
            return self.array.astype(wanted or _LISTED[self.array.dtype.kind])
        if self.array is not None and wanted is not None and wanted.kind == "f":
            return self.array.astype(wanted)
        return np.array(list(self), wanted)  # which checks each for its range

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def _forgetting(name: str) -> Callable[..., Any]:
    method = getattr(list, name)

    def changed(self: _Listed, *args: Any, **kwargs: Any) -> Any:
        self.array = None
        return method(self, *args, **kwargs)

    changed.__name__, changed.__doc__ = name, method.__doc__
    return changed


for _name in (
    "__delitem__", "__iadd__", "__imul__", "__setitem__", "append", "clear", "extend",
    "insert", "pop", "remove", "reverse", "sort",
):  # fmt: skip
    setattr(_Listed, _name, _forgetting(_name))
