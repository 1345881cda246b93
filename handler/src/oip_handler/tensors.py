"""Tensors: their elements, and the check of elements against a shape and a datatype.

Elements travel as one numpy array from the socket to the handler and back; a Python
list is made only for a handler that reads `TensorData.root`. REST and gRPC call the
same check.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from oip_handler.array_list import to_list
from oip_handler.datatypes import Array, as_bytes, convert, from_list, numpy_dtype

__all__ = ["TensorData", "check", "element_count"]

_MOST_DIMENSIONS = 64
"""The most dimensions that an array can have."""
_DIMENSIONS_OF_ANY_NUMPY = 32
"""The most dimensions that an array can have in every supported numpy."""


def element_count(shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor of this shape; 1 for a scalar (`[]`).

    Raises ValueError where a dimension is negative.
    """
    if shape and min(shape) < 0:
        raise ValueError(
            f"shape {list(shape)} has the dimension {min(shape)}, expected 0 or more"
        )
    return math.prod(shape)


class TensorData:
    """The elements of one tensor: an array, a list, or each made from the other.

    `root` is the list that upstream handlers read (a `RootModel` there). It is nested
    if the client sent it nested; BYTES elements are `str` if they came in JSON and
    `bytes` if they came in binary. `array` is the numpy array behind it, or None while
    there is only a list.
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
        """The elements as a list, made when it is first read."""
        if self._list is None and self.array is not None:
            self._list = to_list(self.array)
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
        """Return the elements as a list, as pydantic's RootModel does."""
        return self.root

    def elements(self, datatype: str) -> Array:
        """Return the elements as an array of the datatype, in the shape they came in.

        Raises TypeError or ValueError where an element does not fit (see `from_list`).
        """
        dtype = numpy_dtype(datatype)
        if self.array is None:
            self.array = from_list(self._list, datatype)
        elif self.array.dtype != dtype:
            self.array = convert(self.array, datatype)
        return self.array

    def as_numpy(self, shape: Sequence[int], datatype: str) -> Array:
        """Return an array of `shape`; for BYTES, an object array of `bytes`.

        An array that already has the datatype is not copied. It is read-only where its
        memory belongs to the network's buffer.
        """
        array = self.elements(datatype)
        if array.dtype == object:
            array = as_bytes(array)
        return array.reshape(tuple(shape))

    def validate_oip(self, shape: Sequence[int], datatype: str) -> None:
        """Raise ValueError or TypeError if the elements do not fit (see `check`)."""
        check(self, shape, datatype)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        convert_input = core_schema.no_info_after_validator_function(
            cls, core_schema.any_schema()
        )
        # pydantic before 2.10 cannot check for an instance in JSON
        return core_schema.json_or_python_schema(
            json_schema=convert_input,
            python_schema=core_schema.union_schema(
                [core_schema.is_instance_schema(cls), convert_input],
                mode="left_to_right",
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda data: data.root
            ),
        )


def check(data: TensorData, shape: Sequence[int], datatype: str) -> None:
    """Check the elements against a declared shape and datatype.

    Raises ValueError or TypeError, naming what was found and what was expected, if the
    datatype is unknown, a dimension is negative, an element is of the wrong kind or out
    of range, or the elements do not fill that shape.
    """
    if len(shape) > _MOST_DIMENSIONS:  # multiplying a very long shape takes long
        raise _dimension_error(shape)
    count = element_count(shape)
    array = data.elements(datatype)
    if array.size != count:
        needed = count if count < 2**64 else "more than 2**64"
        raise ValueError(
            f"shape {_format_shape(shape)} needs {needed} elements, found {array.size}"
        )
    if array.ndim > 1:
        # an empty list does not show the dimensions after its zero
        visible = list(shape) if count else list(shape)[: array.ndim]
        if list(array.shape) != visible:
            raise ValueError(
                f"nested lists have the shape {list(array.shape)}, "
                f"expected {list(shape)}"
            )
    if not count or len(shape) > _DIMENSIONS_OF_ANY_NUMPY:
        try:
            array.reshape(tuple(shape))
        except (OverflowError, ValueError):
            raise _dimension_error(shape) from None


def _dimension_error(shape: Sequence[int]) -> ValueError:
    return ValueError(
        f"shape {_format_shape(shape)} has too many dimensions, or too large ones"
    )


def _format_shape(shape: Sequence[int]) -> str:
    """Return a shape as an error text shows it, shortened if it is long."""
    text = str(list(shape[: _MOST_DIMENSIONS * 2]))
    return text if len(text) <= 320 else f"{text[:317]}..."
