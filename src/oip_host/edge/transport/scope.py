"""The keys under which the server and the edge meet in an ASGI scope."""

from __future__ import annotations

__all__ = ["ON_DISCONNECT", "RESPOND"]

ON_DISCONNECT = "oip_host.on_disconnect"
"""A function that the server calls, once, when the client goes away."""
RESPOND = "oip_host.respond"
"""A function that writes a whole response, where the server has one.

It takes the scope, a status, headers and the body; where it returns False, nothing is
written and `send` has to do it.
"""
