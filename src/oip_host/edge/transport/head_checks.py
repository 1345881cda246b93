"""Checks of heads that parse, but that a proxy might understand differently.

A proxy that sees another request than the host lets pass what it should stop. The
parser refuses most of that by itself; here is the rest, by RFC 9110 and 9112.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["AmbiguousHead", "check_head", "must_stay_encoded"]

_ONCE = (
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"content-encoding",
    b"authorization",
    b"inference-header-content-length",
)
"""Headers that are one value: of two, one might be checked, and the other be used."""
_ENCODED = re.compile(rb"%(?:2f|5c|[01][0-9a-f]|7f)", re.IGNORECASE)
"""A slash, a backslash or a control character that a rule for paths would not see."""


class AmbiguousHead(Exception):
    """A fault of a head, with the status of its answer.

    The text holds nothing that the client sent: the log counts refusals by it.
    """

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


def check_head(
    version: str, headers: Sequence[tuple[bytes, bytes]]
) -> dict[bytes, bytes]:
    """Return the headers by their names in lower case; raise AmbiguousHead."""
    fields = dict(headers)
    if len(fields) != len(headers):
        _check_repeated([name for name, _ in headers])
    if b"transfer-encoding" in fields:
        _check_coding(version, fields)
    if version not in ("1.1", "1.0"):
        raise AmbiguousHead(f"found HTTP/{version}, expected HTTP/1.1", 505)
    if version == "1.1" and b"host" not in fields:
        raise AmbiguousHead("the request has no Host header")
    return fields


def must_stay_encoded(path: bytes) -> bool:
    """Return True for a path that would have another meaning if it were decoded."""
    return _ENCODED.search(path) is not None


def _check_repeated(names: list[bytes]) -> None:
    for name in _ONCE:
        if names.count(name) > 1:
            raise AmbiguousHead(f"duplicate header {name.decode().title()}")


def _check_coding(version: str, fields: dict[bytes, bytes]) -> None:
    if version == "1.0" or b"content-length" in fields:
        raise AmbiguousHead(
            "Transfer-Encoding: found together with Content-Length or HTTP/1.0"
        )
    if fields[b"transfer-encoding"].lower() != b"chunked":
        raise AmbiguousHead(
            "Transfer-Encoding: found another coding, expected 'chunked'", 501
        )
