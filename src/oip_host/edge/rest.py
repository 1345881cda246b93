"""V2 over HTTP: a plain ASGI application in front of KServe's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson
from prometheus_client import REGISTRY, exposition

from oip_host.edge import rest_codec
from oip_host.edge.state import ServerState
from oip_host.errors import (
    InvalidRequest,
    MethodNotAllowed,
    ModelNotReady,
    NotFound,
    OIPError,
    PayloadTooLarge,
)
from oip_host.types import ModelMetadataResponse

__all__ = ["RestEdge", "error_body"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("oip_host")

_JSON = (b"content-type", b"application/json")
_OCTETS = (b"content-type", b"application/octet-stream")
_HEADER_LENGTH = b"inference-header-content-length"


@dataclass(frozen=True)
class Answer:
    """A response before it is sent."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)


def error_body(error: Exception) -> bytes:
    """The body of every failure: `{"error": "<text>"}`."""
    return orjson.dumps({"error": str(error)})


def _json(document: Any) -> Answer:
    return Answer(orjson.dumps(document))


class RestEdge:
    """Answers `/v2…` and `/metrics` itself; the rest goes to `fallback`."""

    def __init__(self, state: ServerState, fallback: App, max_body_bytes: int) -> None:
        self._state = state
        self._registry = state.registry
        self._fallback = fallback
        self._max_body = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        ours = path == "/v2" or path.startswith("/v2/") or path == "/metrics"
        if scope["type"] != "http" or not ours:
            await self._fallback(scope, receive, send)
            return
        try:
            answer = await self._answer(scope, path, receive)
        except OIPError as error:
            answer = failure(error)
        except asyncio.CancelledError:  # the grace period is over: nobody else cancels
            answer = failure(ModelNotReady("the server stopped before it could answer"))
        except Exception:
            log.exception("%s %s failed", scope["method"], path)
            answer = failure(OIPError("the server failed; its log has the reason"))
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    *answer.headers,
                    (b"content-length", b"%d" % len(answer.body)),
                ],
            }
        )
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, path: str, receive: Receive) -> Answer:
        method = scope["method"]
        name, version, action = _route(path)
        expected = "POST" if action == "infer" else "GET"
        if method != expected and not (method == "HEAD" and expected == "GET"):
            raise MethodNotAllowed(
                f"{path}: found method {method}, expected {expected}"
            )
        if action == "infer":
            return await self._infer(name, version, scope, receive)
        if name:
            return await self._model(name, version, action)
        return await getattr(self, f"_{action}")(scope)  # type: ignore[no-any-return]

    async def _infer(
        self, name: str, version: str | None, scope: Scope, receive: Receive
    ) -> Answer:
        model = self._registry.find(name, version)
        if not model.ready:
            raise model.not_ready()
        headers = dict(scope["headers"])
        body = await self._body(headers, receive)
        request = rest_codec.decode(body, _header_length(headers))
        response = await model.infer(request, protocol="rest")
        content, head = rest_codec.encode(request, response)
        if head is None:
            return Answer(content)
        return Answer(content, headers=(_OCTETS, (_HEADER_LENGTH, b"%d" % head)))

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        if int(headers.get(b"content-length", b"0")) > self._max_body:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise InvalidRequest("the client left before its request was complete")
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than {self._max_body} bytes, which is max_body_bytes"
        )

    async def _model(self, name: str, version: str | None, action: str) -> Answer:
        model = self._registry.find(name, version)
        if action == "ready":
            if not await model.healthy():
                raise model.not_ready()
            return _json({"name": name, "ready": True})
        return _json(
            metadata_document(
                await model.metadata(), name, self._registry.versions(name)
            )
        )

    async def _server(self, scope: Scope) -> Answer:
        return _json(self._state.metadata())

    async def _live(self, scope: Scope) -> Answer:
        return _json({"live": True})

    async def _health(self, scope: Scope) -> Answer:
        reasons = await self._state.unready()
        if reasons:
            document = {"ready": False, "error": "; ".join(reasons)}
            return Answer(orjson.dumps(document), status=503)
        return _json({"ready": True})

    async def _models(self, scope: Scope) -> Answer:
        return _json({"models": self._registry.names()})

    async def _metrics(self, scope: Scope) -> Answer:
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        encoder, content_type = exposition.choose_encoder(accept)
        headers = ((b"content-type", content_type.encode()),)
        return Answer(encoder(REGISTRY), headers=headers)


def failure(error: OIPError) -> Answer:
    """The response for an error, with the headers of its kind."""
    extra = [(k.encode(), v.encode()) for k, v in error.headers.items()]
    return Answer(error_body(error), error.http_status, (_JSON, *extra))


def metadata_document(
    metadata: ModelMetadataResponse, name: str, versions: list[str]
) -> dict[str, Any]:
    """A model's metadata as the protocol has it, under the name that is served."""
    return {
        "name": name,
        "versions": versions,
        "platform": metadata.platform or "",
        "inputs": [_tensor(tensor) for tensor in metadata.inputs],
        "outputs": [_tensor(tensor) for tensor in metadata.outputs],
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    datatype = getattr(tensor.datatype, "value", tensor.datatype)
    return {"name": tensor.name, "datatype": datatype, "shape": list(tensor.shape)}


_SERVER_ROUTES = {
    "/v2": "server",
    "/v2/": "server",
    "/v2/health/live": "live",
    "/v2/health/ready": "health",
    "/v2/models": "models",
    "/metrics": "metrics",
}


def _route(path: str) -> tuple[str, str | None, str]:
    """The model, its version and the action that a path means; raises NotFound."""
    action = _SERVER_ROUTES.get(path)
    if action:
        return "", None, action
    parts = path.split("/")[3:] if path.startswith("/v2/models/") else []
    name, version = (parts[0], None) if parts and parts[0] else ("", None)
    rest = parts[1:]
    if len(rest) >= 2 and rest[0] == "versions" and rest[1]:
        version, rest = rest[1], rest[2:]
    if name and not rest:
        return name, version, "metadata"
    if name and len(rest) == 1 and rest[0] in ("infer", "ready"):
        return name, version, rest[0]
    raise NotFound(f"no such path: {path}")


def _header_length(headers: dict[bytes, bytes]) -> int | None:
    text = headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        shown = text.decode("latin-1")[:40]
        raise InvalidRequest(
            f"Inference-Header-Content-Length: found {shown!r}, expected bytes"
        )
    return int(text)
