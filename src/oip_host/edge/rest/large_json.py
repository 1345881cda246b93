"""Large JSON bodies: the numbers of their inputs straight into arrays, without a list.

simdjson reads such a body several times faster than orjson makes Python objects of it.
It flattens arrays silently, ragged ones too, so their nesting is checked here. Any
unusual body is left to orjson, whose errors clients know.
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import simdjson

from oip_handler.datatypes import Array

__all__ = ["LARGE", "loads"]

LARGE = 8192
"""Bytes from which the second parser pays; `make bench-thresholds` measures it."""
_KEPT = 16 << 20
"""Bytes of a body up to which the parser keeps its memory for the next one."""
_SHORT = 4
"""Numbers in a row below which its Python object costs more than it saves."""
_MANY = 64
"""Members of an object above which it takes too long to find each by its name."""
_LONGEST = 0xFFFFFF
"""Elements of an array up to which simdjson knows its length, as pysimdjson needs."""
_BOM = b"\xef\xbb\xbf"
_NUMBERS = re.compile(rb'"(?:U?INT|FP|BF)')
_NEAR = 1024
"""Bytes at each end of a body in which the name of a number's datatype has to be."""
_FLOAT, _INT, _UINT = (
    ("d", np.dtype(np.float64)),
    ("i", np.dtype(np.int64)),
    ("u", np.dtype(np.uint64)),
)
_WIDE = {
    **dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), _FLOAT),
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), _INT),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32", "UINT64"), _UINT),
}
"""The form in which simdjson exports the numbers of each datatype."""

_own = threading.local()


class _Unusual(Exception):
    """A body that is left to orjson."""


def loads(body: bytes, size: int) -> Any:
    """Return the JSON in the first `size` bytes; raise orjson.JSONDecodeError.

    The `data` of an input is an array of 64-bit numbers in the shape of its nesting
    where the input's datatype is numeric and the nesting is rectangular. Everything
    else is as orjson returns it.
    """
    view = memoryview(body)[:size]
    with suppress(_Unusual, LookupError, RuntimeError, TypeError, ValueError):
        return _read(body, view)
    return orjson.loads(view)


def _read(body: bytes, view: memoryview) -> dict[str, Any]:
    size = len(view)
    if body.startswith(_BOM):  # simdjson skips it
        raise _Unusual
    if size > 2 * _LONGEST and _count(view, ",") >= _LONGEST:
        raise _Unusual  # pysimdjson writes the list of a longer array beyond its end
    if not _NUMBERS.search(body, 0, min(_NEAR, size)) and not _NUMBERS.search(
        body, max(0, size - _NEAR), size
    ):
        raise _Unusual  # orjson reads texts faster
    parser = getattr(_own, "parser", None) or simdjson.Parser()
    _own.parser = None  # one that fails here is not used again
    reader = _Reader()
    document = reader.read(parser.parse(view))
    if not _has_arrays(body, view, reader.brackets):
        raise _Unusual  # a row that looked flat is not
    if size <= _KEPT:
        _own.parser = parser
    return document


def _count(view: memoryview, character: str) -> int:
    """Count a character; `bytes.count` takes five times as long."""
    return int(np.count_nonzero(np.frombuffer(view, np.uint8) == ord(character)))


def _has_arrays(body: bytes, view: memoryview, brackets: int) -> bool:
    """Return True if so many arrays begin in the view, the first bytes of the body.

    It is much faster to find a few of them than to look at all bytes.
    """
    if brackets > len(view) // 1000:
        return _count(view, "[") == brackets
    at = -1
    for _ in range(brackets):
        at = body.find(b"[", at + 1, len(view))
        if at < 0:
            return False
    return body.find(b"[", at + 1, len(view)) < 0


def _read_members(value: Any) -> list[tuple[str, Any]]:
    """Return the members of an object; its own `items` would make lists of arrays."""
    if not isinstance(value, simdjson.Object) or len(value) > _MANY:
        raise _Unusual
    keys = list(value)
    # of equal keys simdjson finds the first, orjson the last; and it stops at a NUL
    if len(set(keys)) < len(keys) or "\0" in "".join(keys):
        raise _Unusual
    return [(key, value[key]) for key in keys]


class _Reader:
    """Conversion of simdjson's objects to Python's, with a count of their arrays."""

    def __init__(self) -> None:
        self.brackets = 0

    def read(self, root: Any) -> dict[str, Any]:
        """Return the body of an inference request."""
        return {
            key: self._read_inputs(value)
            if key == "inputs"
            else self._read_plain(value)
            for key, value in _read_members(root)
        }

    def _read_inputs(self, value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, simdjson.Array):
            raise _Unusual
        self.brackets += 1
        return [self._read_input(dict(_read_members(entry))) for entry in value]

    def _read_input(self, members: dict[str, Any]) -> dict[str, Any]:
        wide = _WIDE.get(members.get("datatype", ""))
        return {
            key: self._read_numbers(value, *wide)
            if key == "data" and wide and isinstance(value, simdjson.Array)
            else self._read_plain(value)
            for key, value in members.items()
        }

    def _read_numbers(self, array: Any, code: str, dtype: np.dtype[Any]) -> Array:
        """Return the numbers of an array in the shape of its nesting."""
        shape, first = [len(array)], array
        while shape[-1] and isinstance(first[0], simdjson.Array):
            first = first[0]
            shape.append(len(first))
        if len(shape) > 1 and shape[-1] < _SHORT:
            raise _Unusual
        rows = [array]
        for size in shape[1:]:
            self.brackets += len(rows)
            rows = [inner for row in rows for inner in row]
            if any(len(row) != size for row in rows):  # TypeError for a number
                raise _Unusual
        self.brackets += len(rows)
        return np.frombuffer(array.as_buffer(of_type=code), dtype).reshape(shape)

    def _read_plain(self, value: Any) -> Any:
        if isinstance(value, simdjson.Array):
            items = value.as_list()
            self.brackets += 1 + sum(isinstance(item, list) for item in items)
            return items
        return value.as_dict() if isinstance(value, simdjson.Object) else value
