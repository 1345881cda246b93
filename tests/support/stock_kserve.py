"""A stock `kserve.ModelServer` with handlers of `fakes`, as a separate program.

Its arguments are `name=Handler`, or `name=Handler?` for a model that is registered
without being loaded. Only its addresses differ from KServe's: free ports of the
loopback interface, which it prints.
"""

from __future__ import annotations

import socket
import sys
from importlib import import_module
from typing import Any

import grpc.aio._server
import kserve
import uvicorn

from oip_host import AissembleOIPKServe

fakes = import_module("fakes")  # next to this file, as for a server of the tests


def free_port() -> int:
    """Return a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listen_at_loopback_only() -> None:
    """Replace the addresses for which KServe has no options."""
    configure = uvicorn.Config.__init__
    bind = grpc.aio._server.Server.add_insecure_port

    def configure_here(self: Any, app: Any, **options: Any) -> None:
        configure(self, app, **{**options, "host": "127.0.0.1"})

    def bind_here(self: Any, address: str) -> Any:
        return bind(self, address.replace("[::]", "127.0.0.1"))

    uvicorn.Config.__init__ = configure_here  # type: ignore[method-assign,assignment]
    grpc.aio._server.Server.add_insecure_port = bind_here


def main() -> None:
    listen_at_loopback_only()
    http_port, grpc_port = free_port(), free_port()
    server = kserve.ModelServer(http_port=http_port, grpc_port=grpc_port)
    loaded = []
    for argument in sys.argv[1:]:
        name, _, handler = argument.partition("=")
        if name.startswith("--"):
            continue
        model = AissembleOIPKServe(name, getattr(fakes, handler.rstrip("?"))())
        if handler.endswith("?"):
            server.register_model(model)
        else:
            model.load()
            loaded.append(model)
    print(f"REST at http://127.0.0.1:{http_port}, gRPC at 127.0.0.1:{grpc_port}")
    sys.stdout.flush()
    server.start(loaded)


if __name__ == "__main__":
    main()
