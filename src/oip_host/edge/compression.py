"""Content-Encoding of HTTP bodies: gzip and deflate, bounded in what they expand to."""

from __future__ import annotations

import zlib

from oip_host.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding

__all__ = ["MINIMUM", "accepted", "compress", "decompress"]

MINIMUM = 1024
"""Bytes below which compressing an answer is not worth it."""
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LEVEL = 1


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before compression.

    Raises UnsupportedEncoding, InvalidRequest for a body that is not what it says, and
    PayloadTooLarge where it expands to more than `limit` bytes.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOWS:
        raise UnsupportedEncoding(
            f"Content-Encoding: found {encoding!r}, expected gzip or deflate"
        )
    parts: list[bytes] = []
    left = limit
    rest = body
    while rest or not parts:  # a gzip file may have several members (RFC 1952)
        reader = zlib.decompressobj(_WINDOWS[name])
        try:
            parts.append(reader.decompress(rest, left + 1))
        except zlib.error as error:
            raise InvalidRequest(f"the body is no valid {name}: {error}") from None
        left -= len(parts[-1])
        if left < 0:
            raise PayloadTooLarge(
                f"the body expands to more than {limit} bytes, which is max_body_bytes"
            )
        rest = reader.unused_data
        if not reader.eof or (rest and name != "gzip"):
            raise InvalidRequest(
                f"the body is no valid {name}: it is cut short or too long"
            )
    return parts[0] if len(parts) == 1 else b"".join(parts)


def accepted(header: str) -> str | None:
    """The first encoding of an Accept-Encoding header that the host can write."""
    for item in header.lower().replace(" ", "").split(","):
        name, _, weight = item.partition(";q=")
        if name in _WINDOWS and (not weight or weight.strip("0.")):  # "0.00" is none
            return name
    return None


def compress(body: bytes, encoding: str) -> bytes:
    """The body in an encoding that `accepted` gave."""
    writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOWS[encoding])
    return writer.compress(body) + writer.flush()
