"""Large JSON bodies: the numbers of their inputs straight into arrays, without a list.

simdjson reads such a body several times faster than orjson makes Python objects of it.
It flattens arrays silently, ragged ones too, so their nesting is looked at here. What
is in any way out of the ordinary is left to orjson, whose errors clients know.
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
"""Bytes of a body up to which the parser, with its memory, is kept for the next."""
_SHORT = 4
"""Numbers in a row below which its Python object costs more than it spares."""
_MANY = 64
"""Members of an object beyond which finding each by its name takes too long."""
_LONGEST = 0xFFFFFF
"""Elements of an array up to which simdjson tells its length, as pysimdjson needs."""
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
"""How simdjson gives out the numbers of each datatype."""

_own = threading.local()


class _Unusual(Exception):
    """This body is for orjson."""


def loads(body: bytes, size: int) -> Any:
    """The JSON in the first `size` bytes; raises orjson.JSONDecodeError.

    The `data` of an input is an array of 64-bit numbers, shaped as it was nested, where
    the input's datatype is a number's and the nesting is rectangular. All else is as
    orjson has it.
    """
    view = memoryview(body)[:size]
    with suppress(_Unusual, LookupError, RuntimeError, TypeError, ValueError):
        return _read(body, view)
    return orjson.loads(view)


def _read(body: bytes, view: memoryview) -> dict[str, Any]:
    size = len(view)
    if body.startswith(_BOM):  # which simdjson passes over
        raise _Unusual
    if size > 2 * _LONGEST and _count(view, ",") >= _LONGEST:
        raise _Unusual  # of a longer array pysimdjson writes a list beyond its end
    if not _NUMBERS.search(body, 0, min(_NEAR, size)) and not _NUMBERS.search(
        body, max(0, size - _NEAR), size
    ):
        raise _Unusual  # of texts orjson is the faster
    parser = getattr(_own, "parser", None) or simdjson.Parser()
    _own.parser = None  # one that fails here is not used again
    reader = _Reader()
    document = reader.request(parser.parse(view))
    if not _has(body, view, reader.brackets):
        raise _Unusual  # some row that was taken for flat is not
    if size <= _KEPT:
        _own.parser = parser
    return document


def _count(view: memoryview, character: str) -> int:
    """How often a character stands there: `bytes.count` takes five times as long."""
    return int(np.count_nonzero(np.frombuffer(view, np.uint8) == ord(character)))


def _has(body: bytes, view: memoryview, brackets: int) -> bool:
    """Whether so many arrays begin in the view, the first bytes of the body.

    Few of them are found much faster than all bytes are looked at.
    """
    if brackets > len(view) // 1000:
        return _count(view, "[") == brackets
    at = -1
    for _ in range(brackets):
        at = body.find(b"[", at + 1, len(view))
        if at < 0:
            return False
    return body.find(b"[", at + 1, len(view)) < 0


def _members(value: Any) -> list[tuple[str, Any]]:
    """The members of an object, whose own `items` would make lists of its arrays."""
    if not isinstance(value, simdjson.Object) or len(value) > _MANY:
        raise _Unusual
    keys = list(value)
    # of equal ones simdjson finds the first, orjson the last; and it looks up to a NUL
    if len(set(keys)) < len(keys) or "\0" in "".join(keys):
        raise _Unusual
    return [(key, value[key]) for key in keys]


class _Reader:
    """Makes Python objects of simdjson's, and counts the arrays that it has seen."""

    def __init__(self) -> None:
        self.brackets = 0

    def request(self, root: Any) -> dict[str, Any]:
        """The body of an inference request."""
        return {
            key: self._inputs(value) if key == "inputs" else self._plain(value)
            for key, value in _members(root)
        }

    def _inputs(self, value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, simdjson.Array):
            raise _Unusual
        self.brackets += 1
        return [self._input(dict(_members(entry))) for entry in value]

    def _input(self, members: dict[str, Any]) -> dict[str, Any]:
        wide = _WIDE.get(members.get("datatype", ""))
        return {
            key: self._numbers(value, *wide)
            if key == "data" and wide and isinstance(value, simdjson.Array)
            else self._plain(value)
            for key, value in members.items()
        }

    def _numbers(self, array: Any, code: str, dtype: np.dtype[Any]) -> Array:
        """The numbers of an array in the shape of its nesting."""
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

    def _plain(self, value: Any) -> Any:
        if isinstance(value, simdjson.Array):
            items = value.as_list()
            self.brackets += 1 + sum(isinstance(item, list) for item in items)
            return items
        return value.as_dict() if isinstance(value, simdjson.Object) else value
