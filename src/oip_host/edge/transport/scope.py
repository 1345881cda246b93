"""What the server and the edge hand each other in an ASGI scope."""

from __future__ import annotations

__all__ = ["LEFT", "RESPOND"]

LEFT = "oip_host.left"
"""The key in an ASGI scope of what to call, once, when the client goes away."""


RESPOND = "oip_host.respond"
"""The key of what takes a whole response, where the server has such a thing.

It takes the scope, a status, headers and the body, and may leave it to `send`.
"""
