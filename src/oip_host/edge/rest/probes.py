"""The application of the probe port: health and metrics, without a token."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from oip_handler.errors import NotFound
from oip_host.edge.rest.app import RestEdge
from oip_host.edge.transport.error_body import error_body

__all__ = ["PATHS", "Probes"]

PATHS = ("/v2/health/live", "/v2/health/ready", "/metrics")


class Probes:
    """The paths of an edge that the probe port has, and no other."""

    def __init__(self, edge: RestEdge) -> None:
        self._edge = edge

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request to one of the paths, and 404 to any other."""
        answer: Any = self._edge
        if scope["path"] not in PATHS:
            error = NotFound(
                f"no such path on the probe port, expected {', '.join(PATHS)}"
            )
            answer = Response(error_body(error), 404, None, "application/json")
        await answer(scope, receive, send)
