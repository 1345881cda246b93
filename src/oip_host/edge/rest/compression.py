"""Content-Encoding of HTTP bodies: gzip and deflate, with a bound on their size."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from oip_handler.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding

__all__ = ["MINIMUM", "choose_encoding", "compress", "decompress"]

MINIMUM = 1024
"""Bytes below which compressing an answer is not worth it."""
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LEVEL = 1
_BLOCK = 1 << 18
"""Bytes of a body that are expanded at once."""
_MEMBERS = 10_000
"""Members of a gzip body (RFC 1952) at most; even an empty one takes time."""


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the body as it was before compression.

    Raises UnsupportedEncoding, InvalidRequest for a body that is not in its encoding,
    and PayloadTooLarge where it expands to more than `limit` bytes.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOWS:
        raise UnsupportedEncoding(
            f"Content-Encoding: found {encoding!r}, expected gzip or deflate"
        )
    try:
        parts = list(_expand(body, name, limit))
    except zlib.error as error:
        raise InvalidRequest(f"the body is not valid {name}: {error}") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _expand(body: bytes, name: str, limit: int) -> Iterator[bytes]:
    """Expand a body, part by part.

    zlib copies the data behind a member. It gets one block at a time, so many small
    members do not take a time that grows with their square.
    """
    rest, left = memoryview(body), limit
    for _ in range(_MEMBERS if name == "gzip" else 1):
        reader = zlib.decompressobj(_WINDOWS[name])
        while rest and not reader.eof:
            block = rest[:_BLOCK]
            part = reader.decompress(block, left + 1)
            left -= len(part)
            if left < 0:
                raise PayloadTooLarge(
                    f"the body expands to more than {limit} bytes, "
                    "which is max_body_bytes"
                )
            yield part
            rest = rest[len(block) - len(reader.unused_data) :]
        if not reader.eof:
            raise zlib.error("it is truncated")
        if not rest:
            return
    raise zlib.error("it has too many members, or data behind its end")


def choose_encoding(header: str) -> str | None:
    """Return the first encoding of an Accept-Encoding header that the host writes."""
    for item in header.lower().replace(" ", "").split(","):
        name, _, weight = item.partition(";q=")
        if name in _WINDOWS and (not weight or weight.strip("0.")):  # "0.00": not it
            return name
    return None


def compress(body: bytes, encoding: str) -> bytes:
    """Return the body in an encoding that `choose_encoding` has returned."""
    writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOWS[encoding])
    return writer.compress(body) + writer.flush()
