"""Lists made from arrays, which numpy reads back without looking at each element.

Upstream handlers read `TensorData.root` and give the list to numpy: for 1,000 numbers
that takes 1 µs in place of 11.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from oip_handler.datatypes import Array

__all__ = ["to_list"]

F = TypeVar("F", bound=Callable[..., Any])

_MIN_SIZE = 64
"""The number of elements from which the array is worth keeping."""
_FLOAT, _INT, _BOOL = np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_)
_LIST_DTYPES = {"f": _FLOAT, "i": _INT, "u": _INT, "b": _BOOL}
"""The dtype that numpy gives a list, by the kind of the array that it was made from."""


def to_list(array: Array) -> list[Any] | Any:
    """Return the elements as a list nested like the array; a bare one for a scalar."""
    elements = array.tolist()
    is_ordinary = array.dtype.kind in _LIST_DTYPES and array.dtype != np.uint64
    if array.ndim != 1 or array.size < _MIN_SIZE or not is_ordinary:
        return elements
    array_list = _ArrayList(elements)
    array_list.array = array
    return array_list


def _drop_array(change: F) -> F:
    """Wrap a method of `list` that changes it, so that the array is dropped first."""

    @wraps(change)
    def drop_and_change(self: _ArrayList, *args: Any, **kwargs: Any) -> Any:
        self.array = None
        return change(self, *args, **kwargs)

    return cast(F, drop_and_change)


class _ArrayList(list[Any]):
    """A list that keeps the array it was made from until somebody changes it."""

    __slots__ = ("array",)
    array: Array | None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return what numpy would make of the list, without reading its elements."""
        if copy is False:
            raise ValueError("a list does not become an array without a copy")
        wanted = None if dtype is None else np.dtype(dtype)
        if self.array is not None and wanted in (None, self.array.dtype):
            return self.array.astype(wanted or _LIST_DTYPES[self.array.dtype.kind])
        if self.array is not None and wanted is not None and wanted.kind == "f":
            return self.array.astype(wanted)
        return np.array(list(self), wanted)  # which checks each for its range

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)

    __delitem__ = _drop_array(list.__delitem__)
    __iadd__ = _drop_array(list.__iadd__)
    __imul__ = _drop_array(list.__imul__)
    __setitem__ = _drop_array(list.__setitem__)
    append = _drop_array(list.append)
    clear = _drop_array(list.clear)
    extend = _drop_array(list.extend)
    insert = _drop_array(list.insert)
    pop = _drop_array(list.pop)
    remove = _drop_array(list.remove)
    reverse = _drop_array(list.reverse)
    sort = _drop_array(list.sort)
