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
from oip_host.edge.common import model_documents
from oip_host.edge.grpc import codec, health
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
"""Seconds in which calls are rejected before connections end.

A call that arrives while they end is CANCELLED, as if its own client had left.
"""


class GrpcEdge:
    """The gRPC server and its RPCs; call `bind`, then `start`, then `stop`.

    With `shared` several processes can listen on its port.
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
        handlers = {"ModelInfer": _make_handler(self._infer)}
        for name in RPCS:
            handlers[name] = _make_handler(
                getattr(self, name), message(f"{name}Request")
            )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_logging)
        health.serve(self._server, state, authorizer.is_enabled)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE, reflection.SERVICE_NAME), self._server, pool
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
        """Start to answer calls."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Stop accepting calls, and give those in flight `grace_s` seconds."""
        await asyncio.sleep(min(grace_s, REFUSE_S))
        await self._server.stop(grace_s)

    async def _infer(
        self, data: bytes, context: grpc.aio.ServicerContext[Any, Any]
    ) -> bytes:
        if self._state.stopping.is_set():
            raise ModelNotReady("the server is shutting down")
        received = codec.parse(data)
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
                codec.decode(received),
                lambda _, response: codec.encode(received, response),
                ours,
                context.time_remaining(),
            )
        except OIPError as error:
            model.count_failure(ours, error)
            raise
        ours.count_response(len(answer))
        return answer

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer that the server runs."""
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer whether the server is ready."""
        reasons = await self._state.health(self._auth.is_enabled)
        return message("ServerReadyResponse")(ready=not reasons)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer whether a model is ready."""
        answer = message("ModelReadyResponse")
        try:
            version = request.version or None
            await self._state.model_health(request.name, version, self._auth.is_enabled)
        except ModelNotReady:
            return answer(ready=False)
        return answer(ready=True)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with the server's metadata."""
        self._auth.require("server")
        return message("ServerMetadataResponse")(**self._state.metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with a model's metadata."""
        self._auth.require("metadata", request.name)
        model = self._registry.find(request.name, request.version or None)
        versions = self._registry.versions(request.name)
        document = model_documents.describe_metadata(
            await model.metadata(), request.name, versions
        )
        return message("ModelMetadataResponse")(**document)

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with a model's configuration."""
        self._auth.require("config", request.name)
        model = self._registry.find(request.name, request.version or None)
        document = model_documents.describe_config(await model.metadata(), model)
        return message("ModelConfigResponse")(config=document)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with the statistics of a model, or of all the client may see."""
        self._auth.require("stats", request.name)
        version = request.version or None
        statistics = await self._state.statistics(request.name, version)
        answer = message("ModelStatisticsResponse")()
        shown = self._auth.filter_visible(statistics, _name)
        # unknown fields: the empty lists of Triton's optional parts
        return ParseDict({"model_stats": shown}, answer, ignore_unknown_fields=True)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer with the models of the repository."""
        self._auth.require("index")
        index = self._auth.filter_visible(await self._state.index(request.ready), _name)
        return message("RepositoryIndexResponse")(models=index)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Load a model, and answer once it is loaded."""
        name = request.model_name or request.repository_name
        self._auth.require("load", name)
        await self._state.load(name, request.parameters)
        return message("RepositoryModelLoadResponse")(model_name=name, isLoaded=True)

    async def RepositoryModelUnload(  # noqa: N802
        self, request: Any, context: Any
    ) -> Any:
        """Unload a model, and answer once it is unloaded."""
        name = request.model_name or request.repository_name
        self._auth.require("unload", name)
        await self._state.unload(name)
        return message("RepositoryModelUnloadResponse")(
            model_name=name, isUnloaded=True
        )


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Return False for gRPC's line on a client that left before the end."""
    return not str(record.msg).startswith("ExecuteBatchError")


def _begin_context(context: grpc.aio.ServicerContext[Any, Any]) -> RequestContext:
    """Return the context of a call, and make it the current one."""
    carried = {
        name: value
        for name, value in context.invocation_metadata() or ()
        if name in CONTEXT_HEADERS
    }
    ours = RequestContext("grpc", carried)
    current.set(ours)
    return ours


def _make_handler(
    method: Callable[[Any, Any], Awaitable[Any]], request: Any = None
) -> Any:
    """Make a unary RPC of a method, with errors as statuses; no `request`: bytes."""

    async def call(data: Any, context: Any) -> Any:
        ours = _begin_context(context)
        context.set_trailing_metadata(((REQUEST_ID, ours.id),))
        try:
            if request is None:
                return await method(data, context)
            answer = await method(codec.parse_message(data, request), context)
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
