"""KServe's own application behind the edge: V1, `/`, and `/docs` for both protocols."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from oip_handler.errors import (
    HandlerFault,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    NotSupported,
    OIPError,
)
from oip_host.auth.authorizer import Authorizer
from oip_host.edge.common import failure_counts
from oip_host.edge.transport.error_body import error_body
from oip_host.kserve.api import kserve, register_v1_endpoints, register_v2_endpoints
from oip_host.models.model import Model
from oip_host.models.server_state import ServerState
from oip_host.telemetry.context import RequestContext, current

__all__ = ["Repository", "make_kserve_app"]

_NO_TELEMETRY: Any = {
    "tracing": False, "metrics": False, "logs": False, "auto_configure": False
}  # fmt: skip
"""Newer FastAPIs would export spans beside the host's own, with texts of errors."""

_KSERVE_ERRORS: dict[str, type[OIPError]] = {
    "InvalidInput": InvalidRequest,
    "ModelNotFound": ModelNotFound,
    "ModelNotReady": ModelNotReady,
    "InferenceError": HandlerFault,
    "UnsupportedProtocol": NotSupported,
}
_HTTP_ERRORS: dict[int, type[OIPError]] = {404: NotFound, 405: MethodNotAllowed}


class Repository(kserve.ModelRepository):  # type: ignore[misc]  # kserve has no types
    """KServe's view of the registry: each model by name, in its current version."""

    def __init__(self, state: ServerState) -> None:
        super().__init__()
        self._state = state
        self._registry = state.registry

    def get_model(self, name: str) -> Model:
        """Return a model; raise ModelNotFound, where KServe's own returns None."""
        return self._registry.find(name)

    async def is_model_ready(self, name: str) -> bool:
        """Return True, or raise an error with the reason, which KServe's own lacks."""
        await self._state.check_ready(name)
        return True

    def get_models(self) -> dict[str, Model]:
        """Return every model by its name."""
        return {name: self._registry.find(name) for name in self._registry.names()}


def make_kserve_app(
    server: kserve.ModelServer, state: ServerState, authorizer: Authorizer
) -> FastAPI:
    """Make the application of a KServe server, with the edge's errors and rights.

    The edge in front of it answers V2, whose routes are here for `/docs` alone.
    """
    checks = [Depends(_Authorization(authorizer))]
    app = FastAPI(
        title="oip-host",
        version=state.metadata()["version"],
        docs_url="/docs" if server.enable_docs_url else None,
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
        dependencies=checks if authorizer.is_enabled else None,
    )
    app.add_api_route("/", server.dataplane.live)
    register_v1_endpoints(app, server.dataplane, server.model_repository_extension)
    if server.enable_docs_url:
        register_v2_endpoints(app, server.dataplane, server.model_repository_extension)
    failed = _FailureAnswers(state)
    for kind in (Exception, OIPError, HTTPException, *_kserve_errors()):
        app.add_exception_handler(kind, failed)
    return app


class _Authorization:
    """The check of the client's right, with the model's name from the router."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._auth = authorizer

    async def __call__(self, request: Request) -> None:
        path, name = request.scope["path"], request.path_params.get("model_name")
        if name is None:
            self._auth.require("server" if path == "/" else path)
        else:
            self._auth.require(
                "infer" if request.method == "POST" else "metadata", name
            )


class _FailureAnswers:
    """The answers to failures on KServe's own routes, in the form of all others."""

    def __init__(self, state: ServerState) -> None:
        self._registry = state.registry

    async def __call__(self, request: Request, error: Exception) -> Response:
        ours = _translate(request, error)
        context = current.get() or RequestContext("v1")
        failure_counts.count(self._registry, request.scope, context, ours)
        status = ours.http_status
        if isinstance(error, HTTPException):
            status = error.status_code
        headers = dict(ours.headers) or None
        return Response(error_body(ours), status, headers, "application/json")


def _kserve_errors() -> list[type[Exception]]:
    return [getattr(kserve.errors, name) for name in _KSERVE_ERRORS]


def _translate(request: Request, error: Exception) -> OIPError:
    """Return the host's own error for a failure on KServe's routes."""
    if isinstance(error, OIPError):
        return error
    if isinstance(error, HTTPException):
        kind = _HTTP_ERRORS.get(error.status_code, OIPError)
        return kind(f"{request.method} {request.url.path}: {error.detail}")
    known = _KSERVE_ERRORS.get(type(error).__name__)
    if known is None:
        return OIPError("the server failed; its log has the reason")
    return known(str(error))
