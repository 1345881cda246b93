"""The standard gRPC health service, `grpc.health.v1`: the server and each model.

The empty service name and that of the protocol's service stand for the whole server,
any other for the model of that name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from oip_handler.errors import ModelNotFound, ModelNotReady
from oip_host.edge.grpc import messages
from oip_host.models.server_state import ServerState

__all__ = ["SERVICE", "serve"]

SERVICE = "grpc.health.v1.Health"
WATCH_S = 0.5
"""Seconds between two checks of a state that a client watches."""

_Status = health_pb2.HealthCheckResponse


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    def __init__(self, state: ServerState, discreet: bool) -> None:
        self._state = state
        self._discreet = discreet

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        status = await self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"model '{request.service}' is not on this server",
            )
        return _Status(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        last, stopping = None, self._state.stopping
        while True:
            status = await self._status(request.service)
            if status != last:
                last = status
                yield _Status(status=status)
            if stopping.is_set():
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stopping.wait(), WATCH_S)

    async def _status(self, service: str) -> int:
        if service in ("", messages.SERVICE):
            ready = not await self._state.health(self._discreet)
        else:
            try:
                await self._state.model_health(service, None, self._discreet)
                ready = True
            except ModelNotReady:
                ready = False
            except ModelNotFound:
                return int(_Status.SERVICE_UNKNOWN)
        return int(_Status.SERVING if ready else _Status.NOT_SERVING)


def serve(server: grpc.aio.Server, state: ServerState, discreet: bool) -> None:
    """Add the service to a server; `discreet` is as in `ServerState.health`."""
    health_pb2_grpc.add_HealthServicer_to_server(_Health(state, discreet), server)
