"""The text and the body of a failure, as a client gets them."""

from __future__ import annotations

import orjson

__all__ = ["client_text", "error_body"]

_LONGEST = 500
"""Characters of an error text; gRPC carries it in a trailer of 8 KiB at most."""


def client_text(error: object) -> str:
    """Return an error's text as valid Unicode, shortened to what gRPC can carry."""
    text = str(error).encode(errors="replace").decode()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def error_body(error: Exception) -> bytes:
    """Return the body of a failure by HTTP: `{"error": "<text>"}`."""
    return orjson.dumps({"error": client_text(error)})
