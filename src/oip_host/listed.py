"""A tensor's elements as a list that numpy does not have to read again.

Most handlers that read lists give them to numpy at once, which takes longer than it
took to make them. This list is a list in every respect; only where nobody has changed
it does numpy get a copy of the array that it was made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from oip_host.datatypes import Array

__all__ = ["listed"]

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
