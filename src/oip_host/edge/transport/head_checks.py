"""Heads that parse, and that another server on the way might understand differently.

A proxy that sees another request than the host lets through what it should not. The
parser refuses most of that by itself; here is what it takes, by RFC 9110 and 9112.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["Ambiguous", "checked", "stays_encoded"]

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


class Ambiguous(Exception):
    """What is wrong with a head, and the status that says so.

    The text has nothing of the client's: the log counts by it.
    """

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


def checked(version: str, headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by their names, in lower case; raises Ambiguous."""
    fields = dict(headers)
    if len(fields) != len(headers):
        _check_repeated([name for name, _ in headers])
    if b"transfer-encoding" in fields:
        _check_coding(version, fields)
    if version not in ("1.1", "1.0"):
        raise Ambiguous(f"found HTTP/{version}, expected HTTP/1.1", 505)
    if version == "1.1" and b"host" not in fields:
        raise Ambiguous("the request has no Host")
    return fields


def stays_encoded(path: bytes) -> bool:
    """Whether what a path has encoded would mean something else if it were not."""
    return _ENCODED.search(path) is not None


def _check_repeated(names: list[bytes]) -> None:
    for name in _ONCE:
        if names.count(name) > 1:
            raise Ambiguous(f"the request has {name.decode().title()} more than once")


def _check_coding(version: str, fields: dict[bytes, bytes]) -> None:
    if version == "1.0" or b"content-length" in fields:
        raise Ambiguous("Transfer-Encoding: found beside Content-Length or HTTP/1.0")
    if fields[b"transfer-encoding"].lower() != b"chunked":
        raise Ambiguous("Transfer-Encoding: found another than 'chunked'", 501)
