"""V2 over gRPC: the RPCs of `oip.proto` on a `grpc.aio` server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from grpc_reflection.v1alpha import reflection

from oip_host.edge import documents, grpc_codec, grpc_health
from oip_host.edge.checks import told
from oip_host.edge.grpc_messages import SERVICE, message, pool
from oip_host.edge.state import ServerState
from oip_host.errors import ModelNotReady, OIPError

__all__ = ["GrpcEdge"]

log = logging.getLogger("oip_host")

RPCS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
"""The RPCs beside ModelInfer, each with a method and a `<name>Request` message."""


REFUSE_S = 0.1
"""Seconds in which calls are refused before connections end.

What arrives as they end is CANCELLED, as if its own client had left.
"""


class GrpcEdge:
    """Answers the RPCs; `bind`, `start`, `stop` are its life.

    With `shared` several processes may have its port.
    """

    def __init__(
        self,
        state: ServerState,
        max_threads: int,
        options: dict[str, int],
        shared: bool = False,
    ) -> None:
        self._state = state
        self._registry = state.registry
        self._server = grpc.aio.server(
            ThreadPoolExecutor(max_threads, thread_name_prefix="grpc"),
            # else a port that is taken is an error, not a silent second server
            options=[("grpc.so_reuseport", int(shared)), *options.items()],
        )
        handlers = {"ModelInfer": _handler(self._infer)}
        for name in RPCS:
            handlers[name] = _handler(getattr(self, name), message(f"{name}Request"))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        grpc_health.serve(self._server, state)
        reflection.enable_server_reflection(
            (SERVICE, grpc_health.SERVICE, reflection.SERVICE_NAME), self._server, pool
        )

    def bind(
        self, address: str, port: int, certificate: str | None, key: str | None
    ) -> int:
        """Take a port, 0 for any free one, and return it; raises OSError.

        With a certificate and a key (PEM files) it speaks TLS, as REST does.
        """
        host = f"[{address}]" if ":" in address else address
        try:
            if certificate is None or key is None:
                return int(self._server.add_insecure_port(f"{host}:{port}"))
            pair = Path(key).read_bytes(), Path(certificate).read_bytes()
            credentials = grpc.ssl_server_credentials([pair])
            return int(self._server.add_secure_port(f"{host}:{port}", credentials))
        except RuntimeError as error:
            raise OSError(f"address already in use: {host}:{port}") from error

    async def start(self) -> None:
        """Answer from now on."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new call, and wait up to `grace_s` seconds for those in flight."""
        await asyncio.sleep(min(grace_s, REFUSE_S))
        await self._server.stop(grace_s)

    async def _infer(
        self, data: bytes, context: grpc.aio.ServicerContext[Any, Any]
    ) -> bytes:
        if self._state.stopping.is_set():
            raise ModelNotReady("the server is shutting down")
        received = grpc_codec.parse(data)
        wire = received.message
        model = self._registry.find(wire.model_name, wire.model_version or None)
        if not model.ready:
            raise model.not_ready()
        request = grpc_codec.decode(received)
        return await model.encoded(
            request,
            lambda _, response: grpc_codec.encode(received, response),
            "grpc",
            context.time_remaining(),
        )

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        reasons = await self._state.unready()
        return message("ServerReadyResponse")(ready=not reasons)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = message("ModelReadyResponse")
        try:
            await self._state.check_ready(request.name, request.version or None)
        except ModelNotReady:
            return answer(ready=False)
        return answer(ready=True)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(**self._state.metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        model = self._registry.find(request.name, request.version or None)
        versions = self._registry.versions(request.name)
        document = documents.metadata(await model.metadata(), request.name, versions)
        return message("ModelMetadataResponse")(**document)

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        model = self._registry.find(request.name, request.version or None)
        document = documents.config(await model.metadata(), model)
        return message("ModelConfigResponse")(config=document)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        version = request.version or None
        statistics = await self._state.statistics(request.name, version)
        answer = message("ModelStatisticsResponse")()
        # what has no field here, as the empty lists of Triton's optional parts
        return ParseDict(
            {"model_stats": statistics}, answer, ignore_unknown_fields=True
        )

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        index = await self._state.index(request.ready)
        return message("RepositoryIndexResponse")(models=index)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        name = request.model_name or request.repository_name
        await self._state.load(name, request.parameters)
        return message("RepositoryModelLoadResponse")(model_name=name, isLoaded=True)

    async def RepositoryModelUnload(  # noqa: N802
        self, request: Any, context: Any
    ) -> Any:
        name = request.model_name or request.repository_name
        await self._state.unload(name)
        return message("RepositoryModelUnloadResponse")(
            model_name=name, isUnloaded=True
        )


def _handler(method: Callable[[Any, Any], Awaitable[Any]], request: Any = None) -> Any:
    """A unary RPC whose errors become statuses; without `request` it takes bytes."""

    async def call(data: Any, context: Any) -> Any:
        try:
            if request is None:
                return await method(data, context)
            answer = await method(grpc_codec.parse_message(data, request), context)
            return answer.SerializeToString()
        except OIPError as error:
            context.set_code(getattr(grpc.StatusCode, error.grpc_status))
            context.set_details(told(error))
        except Exception:
            log.exception("%s failed", method.__name__)
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("the server failed; its log has the reason")
        return b""

    return grpc.unary_unary_rpc_method_handler(call)
