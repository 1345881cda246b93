"""The server: the host's REST and gRPC edges beside KServe's own routes.

`ModelServer` is a `kserve.ModelServer`, so what KServe's options and globals do stays
as it is; but it listens before models load, runs on uvloop, and never calls a model on
the event loop.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from oip_host.edge.grpc import GrpcEdge
from oip_host.edge.http import HttpServer, limited
from oip_host.edge.rest import RestEdge, error_body
from oip_host.edge.shared import SharedState
from oip_host.edge.state import ServerState
from oip_host.errors import ConfigurationError, OIPError
from oip_host.kserve_api import (
    kserve,
    model_server,
    register_v1_endpoints,
    register_v2_endpoints,
)
from oip_host.model import AissembleOIPKServe
from oip_host.place import Place
from oip_host.ports import listener
from oip_host.registry import Registry
from oip_host.settings import Settings

__all__ = ["ModelServer"]


class _Repository(kserve.ModelRepository):  # type: ignore[misc]  # kserve has no types
    """KServe's view of the registry: each model by name, in its current version."""

    def __init__(self, state: ServerState) -> None:
        super().__init__()
        self._state = state
        self._registry = state.registry

    def get_model(self, name: str) -> AissembleOIPKServe:
        return self._registry.find(name)  # not found is our error, and no None

    async def is_model_ready(self, name: str) -> bool:
        """True, or an error with the reason, which KServe's own answer has not."""
        await self._state.check_ready(name)
        return True

    def get_models(self) -> dict[str, AissembleOIPKServe]:
        return {name: self._registry.find(name) for name in self._registry.names()}


class ModelServer(kserve.ModelServer):  # type: ignore[misc]  # kserve has no types
    """Serves a registry; `startup`, `shutdown` are called on the running loop.

    With a `place` it shares the ports there, and is one of several in what it tells.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        kserve_args: Namespace,
        place: Place | None = None,
    ) -> None:
        control = settings.oip_model_control
        self.state = (
            SharedState(registry, control, place)
            if place
            else ServerState(registry, control)
        )
        self.http_port: int
        self.grpc_port: int
        super().__init__(
            http_port=place.http_port if place else settings.kserve_http_port,
            grpc_port=place.grpc_port if place else settings.kserve_grpc_port,
            workers=settings.kserve_workers,
            max_threads=settings.kserve_max_threads,
            max_asyncio_workers=settings.kserve_max_asyncio_workers,
            registered_models=_Repository(self.state),
            enable_grpc=settings.kserve_enable_grpc,
            enable_docs_url=settings.kserve_enable_docs_url,
            enable_latency_logging=settings.kserve_enable_latency_logging,
            access_log_format=settings.kserve_access_log_format,
        )
        self._shared = place is not None
        self._settings = settings
        self._args = kserve_args
        self._rest: HttpServer | None = None
        self._rest_task: asyncio.Task[None] | None = None
        self._grpc: GrpcEdge | None = None

    async def startup(self) -> None:
        """Listen on both protocols; raises ConfigurationError where a port is taken."""
        settings = self._settings
        asyncio.get_running_loop().set_default_executor(
            ThreadPoolExecutor(self.max_asyncio_workers)
        )
        faults = []
        try:
            bound = listener(settings.oip_bind, self.http_port, shared=self._shared)
            self.http_port = bound.getsockname()[1]
        except OSError as error:
            faults.append(f"kserve_http_port {self.http_port}: {error}")
        if self.enable_grpc:
            self._grpc = GrpcEdge(
                self.state,
                settings.kserve_max_threads,
                self._grpc_limits(),
                self._shared,
            )
            try:
                self.grpc_port = self._grpc.bind(
                    settings.oip_bind, self.grpc_port, *self._certificate
                )
            except OSError as error:
                faults.append(f"kserve_grpc_port {self.grpc_port}: {error}")
        if faults:
            raise ConfigurationError(faults)
        self._rest = HttpServer(self._uvicorn_config())
        self._rest_task = asyncio.create_task(self._rest.serve(sockets=[bound]))
        await self._rest.listening()
        if self._grpc is not None:
            await self._grpc.start()

    @property
    def url(self) -> str:
        """Where REST is to be had from this machine."""
        scheme = "https" if self._certificate[0] else "http"
        return f"{scheme}://{self._address}:{self.http_port}"

    @property
    def addresses(self) -> str:
        """Where the server listens, as a log line says it."""
        grpc = f", gRPC at {self._address}:{self.grpc_port}" if self._grpc else ""
        return f"REST at {self.url}{grpc}"

    @property
    def _address(self) -> str:
        bind = self._settings.oip_bind
        return "localhost" if bind in ("0.0.0.0", "::") else bind

    async def shutdown(self, grace_s: float) -> None:
        """Take no new work, and wait up to `grace_s` seconds for what is in flight."""
        assert self._rest is not None
        assert self._rest_task is not None
        self.state.stopping.set()
        self._rest.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._rest.should_exit = True
        stopping: list[Any] = [self._rest_task]
        if self._grpc is not None:
            stopping.append(asyncio.create_task(self._grpc.stop(grace_s)))
        await asyncio.gather(*stopping)

    async def abort(self) -> None:
        """End at once what `shutdown` still waits for."""
        assert self._rest is not None
        self._rest.force_exit = True
        if self._grpc is not None:
            await self._grpc.stop(0)

    def _uvicorn_config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            http=limited(self._settings),
            ws="none",
            server_header=False,
            proxy_headers=bool(self.access_log_format),  # it alone tells of clients
            timeout_keep_alive=self._keep_alive_s,
            ssl_certfile=self._certificate[0],
            ssl_keyfile=self._certificate[1],
        )

    @property
    def _certificate(self) -> tuple[str | None, str | None]:
        """The files of KServe's `ssl_certfile` and `ssl_keyfile`, which is newer."""
        names = ("ssl_certfile", "ssl_keyfile")
        certificate, key = (getattr(self._args, name, None) for name in names)
        return certificate, key

    def _app(self) -> Any:
        """The edge in front of KServe's application, the access log around both."""
        app: Any = RestEdge(
            self.state, self._kserve_app(), self._settings.oip_max_body_bytes
        )
        if self.access_log_format:
            from asgi_logger.middleware import AccessLoggerMiddleware

            app = AccessLoggerMiddleware(app, format=self.access_log_format)
            app.logger.propagate = False
        return app

    def _grpc_limits(self) -> dict[str, int]:
        """The limits of REST as gRPC has them; what KServe's arguments say goes first.

        An argument that was not given is the very default of the parser: a number that
        was given is another object, even if it is equal.
        """
        settings = self._settings
        limits: dict[str, float] = {
            "grpc.max_send_message_length": -1,
            "grpc.max_receive_message_length": settings.oip_max_body_bytes,
            "grpc.max_metadata_size": settings.oip_max_header_bytes,
            "grpc.absolute_max_metadata_size": settings.oip_max_header_bytes,
            "grpc.max_allowed_incoming_connections": settings.oip_max_connections,
            "grpc.max_concurrent_streams": settings.oip_max_connections,
            "grpc.max_connection_idle_ms": 1000 * self._keep_alive_s,
            "grpc.server_handshake_timeout_ms": 1000 * settings.oip_header_timeout_s,
        }
        for name in ("grpc_max_send_message_length", "grpc_max_receive_message_length"):
            value = getattr(self._args, name)
            if value is not model_server.parser.get_default(name):
                limits[name.replace("_", ".", 1)] = value
        return {name: min(int(value), _INT_MAX) for name, value in limits.items()}

    @property
    def _keep_alive_s(self) -> int:
        """Seconds that an idle connection stays open, which older KServes have not."""
        return max(1, getattr(self._args, "timeout_keep_alive", 65))

    def _kserve_app(self) -> Any:
        """KServe's own application: V1, `/`, and `/docs` for both protocols."""
        app = FastAPI(
            title="oip-host",
            version=self.state.metadata()["version"],
            docs_url="/docs" if self.enable_docs_url else None,
            redoc_url=None,
        )
        app.add_api_route("/", self.dataplane.live)
        register_v1_endpoints(app, self.dataplane, self.model_repository_extension)
        if self.enable_docs_url:  # never called: the edge before it answers V2
            register_v2_endpoints(app, self.dataplane, self.model_repository_extension)
        app.add_exception_handler(Exception, _on_error)
        for kind in (OIPError, HTTPException, *_kserve_errors()):
            app.add_exception_handler(kind, _on_error)
        return app


_INT_MAX = 2**31 - 1
"""The largest number that gRPC's C core takes for an option."""

_KSERVE_STATUS = {
    "InvalidInput": 400,
    "ModelNotFound": 404,
    "ModelNotReady": 503,
    "InferenceError": 500,
    "UnsupportedProtocol": 501,
}


def _kserve_errors() -> list[type[Exception]]:
    return [getattr(kserve.errors, name) for name in _KSERVE_STATUS]


async def _on_error(request: Request, error: Exception) -> Response:
    """Any failure on KServe's own routes, in the form of all others."""
    if isinstance(error, OIPError):
        status, text = error.http_status, error
    elif isinstance(error, HTTPException):
        status = error.status_code
        text = OIPError(f"{request.method} {request.url.path}: {error.detail}")
    elif type(error).__name__ in _KSERVE_STATUS:
        status, text = _KSERVE_STATUS[type(error).__name__], OIPError(str(error))
    else:
        status, text = 500, OIPError("the server failed; its log has the reason")
    headers = error.headers if isinstance(error, OIPError) else None
    return Response(error_body(text), status, headers, "application/json")
