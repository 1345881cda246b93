"""V2 over gRPC: the RPCs of `oip.proto` on a `grpc.aio` server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from grpc_reflection.v1alpha import reflection

from oip_handler.errors import ModelNotReady, OIPError
from oip_host.auth.authorizer import Authorizer
from oip_host.edge.common import model_documents as documents
from oip_host.edge.grpc import codec as grpc_codec
from oip_host.edge.grpc import health as grpc_health
from oip_host.edge.grpc.auth_interceptor import AuthInterceptor
from oip_host.edge.grpc.messages import SERVICE, message, pool
from oip_host.edge.transport.error_body import client_text
from oip_host.models.server_state import ServerState
from oip_host.telemetry import refusals
from oip_host.telemetry.context import (
    CONTEXT_HEADERS,
    REQUEST_ID,
    RequestContext,
    current,
)

__all__ = ["GrpcEdge"]

log = logging.getLogger("oip_host")

_name = itemgetter("name")

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
        authorizer: Authorizer,
        shared: bool = False,
    ) -> None:
        self._state = state
        self._auth = authorizer
        self._registry = state.registry
        self._server = grpc.aio.server(
            ThreadPoolExecutor(max_threads, thread_name_prefix="grpc"),
            interceptors=[AuthInterceptor(authorizer)]
            if authorizer.is_enabled
            else None,
            # else a port that is taken is an error, not a silent second server
            options=[("grpc.so_reuseport", int(shared)), *options.items()],
        )
        handlers = {"ModelInfer": _handler(self._infer)}
        for name in RPCS:
            handlers[name] = _handler(getattr(self, name), message(f"{name}Request"))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_departure)
        grpc_health.serve(self._server, state, authorizer.is_enabled)
        reflection.enable_server_reflection(
            (SERVICE, grpc_health.SERVICE, reflection.SERVICE_NAME), self._server, pool
        )

    def bind(
        self, address: str, port: int, credentials: grpc.ServerCredentials | None
    ) -> int:
        """Take a port, 0 for any free one, and return it; raises OSError.

        With credentials it speaks TLS, as REST does.
        """
        host = f"[{address}]" if ":" in address else address
        try:
            if credentials is None:
                return int(self._server.add_insecure_port(f"{host}:{port}"))
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
        self._auth.require("infer", wire.model_name)
        model = self._registry.find(wire.model_name, wire.model_version or None)
        ours = current.get()
        assert ours is not None
        ours.start(len(data))
        try:
            if not model.ready:
                raise model.not_ready()
            answer = await model.infer_encoded(
                grpc_codec.decode(received),
                lambda _, response: grpc_codec.encode(received, response),
                ours,
                context.time_remaining(),
            )
        except OIPError as error:
            model.count_failure(ours, error)
            raise
        ours.count_response(len(answer))
        return answer

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        reasons = await self._state.health(self._auth.is_enabled)
        return message("ServerReadyResponse")(ready=not reasons)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = message("ModelReadyResponse")
        try:
            version = request.version or None
            await self._state.model_health(request.name, version, self._auth.is_enabled)
        except ModelNotReady:
            return answer(ready=False)
        return answer(ready=True)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._auth.require("server")
        return message("ServerMetadataResponse")(**self._state.metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._auth.require("metadata", request.name)
        model = self._registry.find(request.name, request.version or None)
        versions = self._registry.versions(request.name)
        document = documents.metadata(await model.metadata(), request.name, versions)
        return message("ModelMetadataResponse")(**document)

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._auth.require("config", request.name)
        model = self._registry.find(request.name, request.version or None)
        document = documents.config(await model.metadata(), model)
        return message("ModelConfigResponse")(config=document)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._auth.require("stats", request.name)
        version = request.version or None
        statistics = await self._state.statistics(request.name, version)
        answer = message("ModelStatisticsResponse")()
        shown = self._auth.filter_visible(statistics, _name)
        # what has no field here, as the empty lists of Triton's optional parts
        return ParseDict({"model_stats": shown}, answer, ignore_unknown_fields=True)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._auth.require("index")
        index = self._auth.filter_visible(await self._state.index(request.ready), _name)
        return message("RepositoryIndexResponse")(models=index)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        name = request.model_name or request.repository_name
        self._auth.require("load", name)
        await self._state.load(name, request.parameters)
        return message("RepositoryModelLoadResponse")(model_name=name, isLoaded=True)

    async def RepositoryModelUnload(  # noqa: N802
        self, request: Any, context: Any
    ) -> Any:
        name = request.model_name or request.repository_name
        self._auth.require("unload", name)
        await self._state.unload(name)
        return message("RepositoryModelUnloadResponse")(
            model_name=name, isUnloaded=True
        )


def _is_no_departure(record: logging.LogRecord) -> bool:
    """Whether a line of gRPC's tells of more than a client who left before the end."""
    return not str(record.msg).startswith("ExecuteBatchError")


def _context(context: grpc.aio.ServicerContext[Any, Any]) -> RequestContext:
    """The context of a call, which everything that it runs through has from now."""
    carried = {
        name: value
        for name, value in context.invocation_metadata() or ()
        if name in CONTEXT_HEADERS
    }
    ours = RequestContext("grpc", carried)
    current.set(ours)
    return ours


def _handler(method: Callable[[Any, Any], Awaitable[Any]], request: Any = None) -> Any:
    """A unary RPC whose errors become statuses; without `request` it takes bytes."""

    async def call(data: Any, context: Any) -> Any:
        ours = _context(context)
        context.set_trailing_metadata(((REQUEST_ID, ours.id),))
        try:
            if request is None:
                return await method(data, context)
            answer = await method(grpc_codec.parse_message(data, request), context)
            return answer.SerializeToString()
        except OIPError as error:
            context.set_code(getattr(grpc.StatusCode, error.grpc_status))
            context.set_details(client_text(error))
            if ours.statistics is None:
                refusals.count("grpc", error.kind)
        except Exception:
            log.exception("%s failed", method.__name__)
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("the server failed; its log has the reason")
        return b""

    return grpc.unary_unary_rpc_method_handler(call)
