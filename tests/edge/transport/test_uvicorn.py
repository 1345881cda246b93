"""The transport uses internals of uvicorn: a uvicorn that changes them fails here.

`pyproject.toml` bounds uvicorn by the newest version that these tests passed with.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from oip_host.edge.transport import http, server


def connection() -> HttpToolsProtocol:
    """A uvicorn connection on which a request has begun."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        """Wait for a call that never comes."""

    async def connect() -> HttpToolsProtocol:
        config = uvicorn.Config(application, ws="none", lifespan="off", log_config=None)
        config.load()
        protocol = HttpToolsProtocol(config, ServerState(), {})
        protocol.connection_made(asyncio.Transport())
        protocol.parser.feed_data(b"GET / HTTP/1.1\r\n")
        return protocol

    return asyncio.run(connect())


def cycle() -> RequestResponseCycle:
    """A uvicorn request cycle."""
    parameters = inspect.signature(RequestResponseCycle).parameters
    return RequestResponseCycle(**dict.fromkeys(parameters))  # type: ignore[arg-type]


def taken(owner: str) -> set[str]:
    """Return the attributes that the module reads from an object, as `self.flow`."""
    tree = ast.parse(inspect.getsource(http))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == owner
    }


def own(kind: type) -> set[str]:
    """Return the public attributes that a class of the host defines itself."""
    return {*vars(kind), *kind.__annotations__}


OURS = own(http.HttpConnection) | own(http._Cycle)


@pytest.mark.parametrize(
    ("make", "owners"),
    [
        (connection, ["self"]),
        (lambda: connection().flow, ["self.flow"]),
        (lambda: connection().server_state, ["self.server_state"]),
        (lambda: connection().parser, ["self.parser"]),
        (cycle, ["cycle", "self.cycle"]),
    ],
    ids=["connection", "flow", "server state", "parser", "request"],
)
def test_uvicorn_has_the_attributes_in_use(
    make: Callable[[], Any], owners: list[str]
) -> None:
    """Each attribute that a connection reads from uvicorn's objects exists there."""
    names = {name for owner in owners for name in taken(owner)} - OURS
    public = {name for name in names if not name.startswith("_")}
    theirs = make()
    missing = {name for name in public if not hasattr(theirs, name)}
    if owners == ["self"]:  # those of a request of ours, which has `self` too
        missing = {name for name in missing if not hasattr(cycle(), name)}
    assert public
    assert missing <= {"set_dangerous_leniencies"}  # httptools before 0.6.3


def test_overridden_uvicorn_methods_exist() -> None:
    """A method that overrides one of uvicorn's has a counterpart there."""
    for ours, theirs, names in (
        (
            http.HttpConnection,
            HttpToolsProtocol,
            "connection_made connection_lost data_received on_headers_complete "
            "on_body on_message_complete on_response_complete",
        ),
        (http._Cycle, RequestResponseCycle, "receive"),
        (server.HttpServer, uvicorn.Server, "capture_signals startup shutdown serve"),
    ):
        for name in names.split():
            assert callable(getattr(ours, name))
            assert callable(getattr(theirs, name, None)), name


def test_uvicorn_has_the_status_lines() -> None:
    """`STATUS_LINE` holds the first line of an answer by its status, and its end."""
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert STATUS_LINE[503].startswith(b"HTTP/1.1 503 ")
