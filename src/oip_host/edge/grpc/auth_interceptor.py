"""Authentication of each gRPC call, before its message is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from oip_handler.errors import OIPError
from oip_host.auth.authorizer import Authorizer
from oip_host.edge.grpc import health
from oip_host.edge.grpc.messages import SERVICE
from oip_host.edge.transport.error_body import client_text
from oip_host.telemetry import refusals

__all__ = ["AuthInterceptor"]

_OPEN = {
    *(f"/{SERVICE}/{name}" for name in ("ServerLive", "ServerReady", "ModelReady")),
    *(f"/{health.SERVICE}/{name}" for name in ("Check", "Watch")),
}
"""Methods that need no token, as by REST."""


class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # it has no types
    """Authentication of each call; the RPCs themselves check the token's scopes."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._auth = authorizer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of the call, or one that rejects it."""
        sent = [
            value if isinstance(value, str) else ""
            for name, value in details.invocation_metadata or ()
            if name == "authorization"
        ]
        method = details.method
        is_open = method in _OPEN
        try:
            self._auth.authenticate(sent, is_open)
            if not (is_open or method.startswith(f"/{SERVICE}/")):
                self._auth.require(method)  # reflection, and unknown methods
        except OIPError as error:
            refusals.count("grpc", error.kind)
            return _rejecting_handler(error)
        return await continuation(details)


def _rejecting_handler(error: OIPError) -> Any:
    """Return a handler that rejects a call; one of streams reads no message first."""

    async def reject(_: Any, context: Any) -> None:
        status = getattr(grpc.StatusCode, error.grpc_status)
        await context.abort(status, client_text(error))

    return grpc.stream_stream_rpc_method_handler(reject)
