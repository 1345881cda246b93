"""Keeps a KServe server off the network: it has no option for the address."""

from __future__ import annotations

from typing import Any

import uvicorn
from grpc.aio import _server

__all__ = ["keep_to_loopback"]


def keep_to_loopback() -> None:
    """Whatever address is asked for from now on, listen at 127.0.0.1."""
    configure = uvicorn.Config.__init__
    add_port = _server.Server.add_insecure_port

    def configure_here(self: Any, *arguments: Any, **options: Any) -> None:
        configure(self, *arguments, **{**options, "host": "127.0.0.1"})

    def add_port_here(self: Any, address: str) -> Any:
        return add_port(self, f"127.0.0.1:{address.rpartition(':')[2]}")

    uvicorn.Config.__init__ = configure_here  # type: ignore[method-assign]
    _server.Server.add_insecure_port = add_port_here
