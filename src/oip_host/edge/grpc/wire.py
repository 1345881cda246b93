"""Large tensor contents, read straight off protobuf's wire and written straight to it.

Protobuf copies `bytes` and makes a Python list of every number. Here a request is split
into its bulky contents, which become arrays on the request's own memory, and the rest,
which protobuf parses and validates as it does any message. A message in another form
than encoders write is left to protobuf altogether, so nothing is accepted that it would
reject, or the other way round. See "Message Structure" in protobuf's `encoding.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from oip_handler.datatypes import Array, from_raw, to_raw

__all__ = ["LEAST", "LEAST_RAW", "Split", "encode_field", "pack", "split"]

LEAST = 1024
"""Bytes of a message, and of an input, from which reading typed contents here pays."""
LEAST_RAW = 300_000
"""Bytes of a message from which a view on raw contents is cheaper than a copy."""
_DTYPES = {
    "bool_contents": np.dtype(np.bool_),
    "int_contents": np.dtype("<i4"),
    "int64_contents": np.dtype("<i8"),
    "uint_contents": np.dtype("<u4"),
    "uint64_contents": np.dtype("<u8"),
    "fp32_contents": np.dtype("<f4"),
    "fp64_contents": np.dtype("<f8"),
}
"""The numbers of InferTensorContents, in the order of their fields from 1 on."""

_FIXED = {"fp32_contents": "FP32", "fp64_contents": "FP64"}
_VARINT, _SIZED = 0, 2  # wire types
_WIDTHS = {1: 8, 5: 4}  # the other ones' bytes; 3 and 4 are groups
_NUMBERS = {name: number for number, name in enumerate(_DTYPES, 1)}
_NAMES = {number << 3 | _SIZED: name for name, number in _NUMBERS.items()}
_INPUT, _RAW = 5 << 3 | _SIZED, 7 << 3 | _SIZED  # of ModelInferRequest
_CONTENTS = 5 << 3 | _SIZED  # of InferInputTensor
_MOST_FIELDS = 128
"""Of one message; one with more is left to protobuf, and no loop gets long."""
FEW, FEW_INTEGERS = 64, 2048
"""Floats, and integers, up to which protobuf itself writes faster.

`make bench-thresholds` measures these four.
"""


class Split(NamedTuple):
    """A request in two: the message without its bulky contents, and these."""

    rest: bytes
    raw: list[memoryview]
    """All of `raw_input_contents`."""
    typed: dict[int, tuple[str, Array]]
    """By the number of its input: the name of the field, and its elements."""


class _UnusualError(Exception):
    """A message in another form than encoders write, or no message at all."""


def split(data: bytes, least: int = LEAST, least_raw: int = LEAST_RAW) -> Split | None:
    """Split a ModelInferRequest into bulky contents and rest; None leaves it whole.

    The arrays and views are read-only and have the memory of `data`, but for integers,
    and for floats that are not aligned there. `least` is the size in bytes from which
    a message and an input with typed contents are split, `least_raw` that of a message
    with raw contents.
    """
    if len(data) < min(least, least_raw):
        return None
    try:
        parts = _split(data, least, len(data) >= least_raw)
    except (_UnusualError, IndexError):
        return None
    return parts if parts.raw or parts.typed else None


def _split(data: bytes, least: int, with_raw: bool) -> Split:
    view = memoryview(data)
    pieces: list[bytes | memoryview] = []
    raw: list[memoryview] = []
    typed: dict[int, tuple[str, Array]] = {}
    inputs = 0
    for tag, start, value, end in _walk_fields(data, 0, len(data)):
        if tag == _RAW:
            if not with_raw:
                raise _UnusualError
            raw.append(view[value:end])
            continue
        kept: list[bytes | memoryview] = [view[start:end]]
        if tag == _INPUT:
            contents = None
            if end - value >= least:
                contents = _read_contents(view, value, end)
            if contents:
                before, after, typed[inputs] = contents
                kept = encode_field(5, view[value:before], view[after:end])
            inputs += 1
        pieces += kept
    return Split(b"".join(pieces), raw, typed)


def _read_contents(
    view: memoryview, at: int, end: int
) -> tuple[int, int, tuple[str, Array]] | None:
    """Return where an input's contents begin and end, their field and its elements.

    Returns None where they are absent, in pieces, of several fields, or not packed.
    """
    spans = [span for span in _walk_fields(view, at, end) if span[0] == _CONTENTS]
    if len(spans) != 1:
        return None
    _, before, value, after = spans[0]
    tag, _, value, last = next(_walk_fields(view, value, after), (0, 0, 0, 0))
    if tag not in _NAMES or last != after:
        return None
    elements = _read_elements(view[value:last], _NAMES[tag])
    return None if elements is None else (before, after, (_NAMES[tag], elements))


def _walk_fields(
    data: bytes | memoryview, at: int, end: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields in a stretch of bytes: tag, start, start of the value, and end.

    Raises _UnusualError or IndexError where it does not end with a field, and for a
    group, a field above 15 or an overlong integer, which protobuf may still know.
    """
    for _ in range(_MOST_FIELDS):
        if at == end:
            return
        tag = data[at]
        kind, size, value = tag & 7, 0, at + 1
        if kind == _SIZED:
            size, value = _read_varint(data, value)
        elif kind == _VARINT:
            _, value = _read_varint(data, value)
        elif kind in _WIDTHS:
            size = _WIDTHS[kind]
        else:
            raise _UnusualError
        start, at = at, value + size
        if tag >= 0x80 or at > end:
            raise _UnusualError
        yield tag, start, value, at
    raise _UnusualError


def _read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the integer of up to 5 bytes that begins at a place, and its end."""
    number = 0
    for i in range(5):
        octet = data[at + i]
        number |= (octet & 0x7F) << 7 * i
        if octet < 0x80:
            return number, at + i + 1
    raise _UnusualError


def _read_elements(payload: memoryview, name: str) -> Array | None:
    """Return the elements of a packed field; None for none, or for a broken one."""
    dtype = _DTYPES[name]
    if not payload:
        return None
    if name in _FIXED:
        whole = len(payload) % dtype.itemsize == 0
        return from_raw(payload, _FIXED[name]) if whole else None
    octets = np.frombuffer(payload, np.uint8)
    values = octets if octets.max() < 0x80 else _read_varints(octets)
    return None if values is None else values.astype(dtype)


def _read_varints(octets: Array) -> Array | None:
    """Return the integers, which end with an octet below 0x80 and have 10 at most."""
    ends = np.flatnonzero(octets < 0x80)
    if not ends.size or ends[-1] != octets.size - 1:
        return None
    lengths = np.diff(ends, prepend=-1)
    longest = int(lengths.max())
    if longest > 10:
        return None
    starts = ends - lengths + 1
    lengths = lengths.astype(np.uint8)
    values = (octets[starts] & 0x7F).astype(np.uint64)
    for i in range(1, longest):
        groups = (octets.take(starts + i, mode="clip") & 0x7F) * (lengths > i)
        values |= groups.astype(np.uint64) << np.uint64(7 * i)
    return values


def encode_field(number: int, *value: bytes | memoryview) -> list[bytes | memoryview]:
    """Return the pieces of a field of bytes, or of a message, from its value's."""
    head, size = [number << 3 | _SIZED], sum(map(len, value))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return [bytes(head), *value]


def pack(array: Array, name: str) -> list[bytes | memoryview]:
    """Return the pieces of a field of InferTensorContents for the elements of an array.

    There are none where protobuf is to write it: few elements, or bytes.
    """
    number = _NUMBERS.get(name)
    if number is None or array.size <= (FEW if name in _FIXED else FEW_INTEGERS):
        return []
    if name in _FIXED:
        return encode_field(number, to_raw(array))
    return encode_field(number, _write_varints(array.reshape(-1)).data)


def _write_varints(array: Array) -> Array:
    """Return the varints of booleans or integers, one after the other."""
    if array.dtype.kind == "b":
        truth: Array = array.view(np.uint8) != 0  # a handler's may have other bits
        return truth.view(np.uint8)
    if array.max() < 0x80 and array.min() >= 0:
        return array.astype(np.uint8)
    values = array.astype(np.int64).view(np.uint64)
    longest = -(-int(values.max()).bit_length() // 7)
    octets = np.empty((longest, values.size), np.uint8)
    wanted = np.empty((longest, values.size), np.bool_)
    for i in range(longest):  # from the lowest 7 bits to the highest
        octets[i], wanted[i] = values & np.uint64(0x7F), values
        values = values >> np.uint64(7)
    wanted[0] = True
    octets[:-1] |= wanted[1:].view(np.uint8) << 7  # another octet follows
    flat: Array = np.compress(wanted.T.reshape(-1), octets.T)
    return flat
