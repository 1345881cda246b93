"""The server: the host's REST and gRPC edges beside KServe's own routes.

`KServeServer` is a `kserve.ModelServer`, so KServe's options and globals keep their
effect; but it listens before models load, runs on uvloop, and never calls a model on
the event loop.
"""

from __future__ import annotations

import asyncio
import socket
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn

from oip_host.auth.authorizer import Authorizer
from oip_host.auth.setup import build_verifier
from oip_host.config.settings import Settings
from oip_host.edge.grpc.service import GrpcEdge
from oip_host.edge.kserve_app.app import Repository, make_kserve_app
from oip_host.edge.rest.app import RestEdge
from oip_host.edge.rest.probes import Probes
from oip_host.edge.transport.server import HttpServer, make_protocol
from oip_host.edge.transport.tls import Tls, build_tls
from oip_host.errors import ConfigurationError
from oip_host.kserve.api import kserve
from oip_host.models.registry import Registry
from oip_host.models.server_state import ServerState
from oip_host.telemetry import logs
from oip_host.workers.identity import WorkerIdentity
from oip_host.workers.ports import bind_socket
from oip_host.workers.shared_state import SharedState

__all__ = ["KServeServer"]


class KServeServer(kserve.ModelServer):  # type: ignore[misc]  # kserve has no types
    """A server of a registry; call `startup` and `shutdown` on the running loop.

    With a `worker` it is one of several workers: it shares their ports, and answers for
    all of them.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        kserve_args: Namespace,
        worker: WorkerIdentity | None = None,
    ) -> None:
        control = settings.oip_model_control
        self.state = (
            SharedState(registry, control, worker)
            if worker
            else ServerState(registry, control)
        )
        self.http_port: int
        self.grpc_port: int
        super().__init__(
            http_port=worker.http_port if worker else settings.kserve_http_port,
            grpc_port=worker.grpc_port if worker else settings.kserve_grpc_port,
            workers=settings.kserve_workers,
            max_threads=settings.kserve_max_threads,
            max_asyncio_workers=settings.kserve_max_asyncio_workers,
            registered_models=Repository(self.state),
            enable_grpc=settings.kserve_enable_grpc,
            enable_docs_url=settings.kserve_enable_docs_url,
            enable_latency_logging=settings.kserve_enable_latency_logging,
            access_log_format=settings.kserve_access_log_format,
        )
        self._shared = worker is not None
        self._verifier = build_verifier(settings)
        self._auth = Authorizer(self._verifier)
        self._settings = settings
        self._args = kserve_args
        self._edge: RestEdge | None = None
        self.probe_port = worker.probe_port if worker else settings.oip_probe_port
        self._tls: Tls | None = None
        self._rest: HttpServer | None = None
        self._probes: HttpServer | None = None
        self._grpc: GrpcEdge | None = None

    async def startup(self) -> None:
        """Listen on both protocols.

        Raises ConfigurationError where a port is taken or a certificate is invalid.
        """
        asyncio.get_running_loop().set_default_executor(
            ThreadPoolExecutor(self.max_asyncio_workers)
        )
        self._tls = build_tls(self._settings, self._args)
        faults: list[str] = []
        rest = self._open_port("kserve_http_port", self.http_port, faults)
        probes = None
        if self.probe_port is not None:
            probes = self._open_port("oip_probe_port", self.probe_port, faults)
        if self.enable_grpc:
            self._grpc = self._bind_grpc(faults)
        if rest is None or faults:
            raise ConfigurationError(faults)
        if self._verifier is not None:
            self._verifier.start()
        if self._tls is not None:
            self._tls.start()
        await self._serve_rest(rest)
        if probes is not None:
            await self._serve_probes(probes)
        if self._grpc is not None:
            await self._grpc.start()

    async def _serve_rest(self, bound: socket.socket) -> None:
        self.http_port = bound.getsockname()[1]
        context = self._tls.context if self._tls else None
        self._rest = HttpServer(self._uvicorn_config(self._app()), context)
        await self._rest.begin(bound)

    async def _serve_probes(self, bound: socket.socket) -> None:
        self.probe_port = bound.getsockname()[1]
        self._probes = HttpServer(self._uvicorn_config(self._probe_app()))
        await self._probes.begin(bound)

    def _bind_grpc(self, faults: list[str]) -> GrpcEdge:
        """Make the gRPC edge and take its port; append a fault where it is taken."""
        settings = self._settings
        edge = GrpcEdge(
            self.state,
            settings.kserve_max_threads,
            self._grpc_limits(),
            self._auth,
            self._shared,
        )
        credentials = self._tls.build_credentials() if self._tls else None
        try:
            self.grpc_port = edge.bind(settings.oip_bind, self.grpc_port, credentials)
        except OSError as error:
            faults.append(f"kserve_grpc_port {self.grpc_port}: {error}")
        return edge

    def _open_port(
        self, option: str, port: int, faults: list[str]
    ) -> socket.socket | None:
        """Return a socket at a port; append a fault and return None where it fails."""
        try:
            return bind_socket(self._settings.oip_bind, port, shared=self._shared)
        except OSError as error:
            faults.append(f"{option} {port}: {error}")
            return None

    @property
    def url(self) -> str:
        """The address of REST, as seen from this machine."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{self._address}:{self.http_port}"

    @property
    def addresses(self) -> str:
        """The addresses of all ports, for a log line."""
        grpc = f", gRPC at {self._address}:{self.grpc_port}" if self._grpc else ""
        probes = f", probes at {self._address}:{self.probe_port}"
        return f"REST at {self.url}{grpc}{probes if self._probes else ''}"

    @property
    def _address(self) -> str:
        bind = self._settings.oip_bind
        return "localhost" if bind in ("0.0.0.0", "::") else bind

    def reconfigure(self, settings: Settings) -> None:
        """Apply new limits to REST; gRPC keeps those of its start."""
        self._settings = settings
        if self._edge is not None:
            self._edge.set_max_body(settings.oip_max_body_bytes)
        if self._rest is not None:
            self._rest.set_limits(settings)
        if self._probes is not None:
            self._probes.set_limits(settings)

    async def shutdown(self, grace_s: float) -> None:
        """Stop accepting work, and give requests in flight `grace_s` seconds."""
        assert self._rest is not None
        self.state.stopping.set()
        stopping: list[Any] = [self._rest.end(grace_s)]
        if self._grpc is not None:
            stopping.append(self._grpc.stop(grace_s))
        await asyncio.gather(*stopping)
        if self._probes is not None:
            await self._probes.end(0)
        if self._verifier is not None:
            self._verifier.stop()
        if self._tls is not None:
            self._tls.stop()

    async def abort(self) -> None:
        """End the requests that `shutdown` still waits for."""
        assert self._rest is not None
        self._rest.force_exit = True
        if self._grpc is not None:
            await self._grpc.stop(0)

    def _uvicorn_config(self, app: Any) -> uvicorn.Config:
        return uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http=make_protocol(self._settings),
            ws="none",
            server_header=False,
            headers=[("x-content-type-options", "nosniff")],
            proxy_headers=bool(self.access_log_format),  # shown in the access log alone
            timeout_keep_alive=self._keep_alive_s,
        )

    def _probe_app(self) -> Probes:
        """Return an edge for health and metrics alone."""
        max_body = self._settings.oip_max_body_bytes
        return Probes(RestEdge(self.state, _no_fallback, max_body, Authorizer(None)))

    def _app(self) -> Any:
        """Return the edge before KServe's application, with the access log around."""
        max_body = self._settings.oip_max_body_bytes
        fallback = make_kserve_app(self, self.state, self._auth)
        app: Any = RestEdge(self.state, fallback, max_body, self._auth)
        self._edge = app
        if self.access_log_format:
            from asgi_logger.middleware import AccessLoggerMiddleware

            app = AccessLoggerMiddleware(app, format=self.access_log_format)
            app.logger.propagate = False
            if self._settings.oip_log_format == logs.JSON:
                for handler in app.logger.handlers:
                    handler.setFormatter(logs.build_formatter(logs.JSON))
        return app

    def _grpc_limits(self) -> dict[str, int]:
        """Return REST's limits as options of gRPC; KServe's arguments take precedence.

        KServe's arguments for the size of messages are None unless they were given.
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
            if value is not None:
                limits[name.replace("_", ".", 1)] = value
        return {name: min(int(value), _INT_MAX) for name, value in limits.items()}

    @property
    def _keep_alive_s(self) -> int:
        """Seconds that an idle connection stays open; old KServes have no argument."""
        return max(1, getattr(self._args, "timeout_keep_alive", 65))


async def _no_fallback(scope: Any, receive: Any, send: Any) -> None:
    """Do nothing, behind an edge that answers every request it gets."""


_INT_MAX = 2**31 - 1
"""The largest number that gRPC's C core accepts for an option."""
