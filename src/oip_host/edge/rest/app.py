"""V2 over HTTP: a plain ASGI application in front of KServe's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from prometheus_client import exposition

from oip_handler.datatypes import describe_value
from oip_handler.errors import (
    InvalidRequest,
    MethodNotAllowed,
    ModelNotReady,
    OIPError,
    PayloadTooLarge,
)
from oip_host.auth.authorizer import Authorizer
from oip_host.edge.common import failure_counts
from oip_host.edge.common import model_documents as documents
from oip_host.edge.rest import codec as rest_codec
from oip_host.edge.rest.compression import MINIMUM, accepted, compress, decompress
from oip_host.edge.rest.routes import (
    MODEL,
    REPOSITORY,
    SERVER,
    is_open,
    method_of,
    route,
)
from oip_host.edge.transport.error_body import error_body
from oip_host.edge.transport.scope import ON_DISCONNECT, RESPOND
from oip_host.models.server_state import ServerState
from oip_host.telemetry import refusals
from oip_host.telemetry.context import CARRIED, REQUEST_ID, RequestContext, current

__all__ = ["RestEdge"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("oip_host")

_JSON = (b"content-type", b"application/json")
_OCTETS = (b"content-type", b"application/octet-stream")
_HEADER_LENGTH = b"inference-header-content-length"
_REQUEST_ID = REQUEST_ID.encode()
_AUTHORIZATION = b"authorization"
_CARRIED = [(name.encode(), name) for name in CARRIED]


class Answer(NamedTuple):
    """A response before it is sent."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)


class Call(NamedTuple):
    """A request that has found its route."""

    name: str
    version: str | None
    headers: dict[bytes, bytes]
    receive: Receive
    context: RequestContext


class _Leaving:
    """What is called when the client of the running request goes away."""

    __slots__ = ("_task", "left")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.left = False

    def __call__(self) -> None:
        self.left = True
        assert self._task is not None
        self._task.cancel()


class _Gone(Exception):
    """The client left, or was refused, before its request was complete."""


_name = itemgetter("name")


def _json(document: Any) -> Answer:
    return Answer(orjson.dumps(document))


class RestEdge:
    """Answers `/v2…` and `/metrics` itself; the rest goes to `fallback`."""

    def __init__(
        self,
        state: ServerState,
        fallback: App,
        max_body_bytes: int,
        authorizer: Authorizer,
    ) -> None:
        self._state = state
        self._auth = authorizer
        self._registry = state.registry
        self._fallback = fallback
        self._max_body = max_body_bytes
        actions = {*SERVER.values(), *MODEL.values(), *REPOSITORY.values()}
        self._actions: dict[str, Callable[[Call], Awaitable[Answer]]] = {
            action: getattr(self, f"_{action}") for action in actions
        }

    def set_max_body(self, max_body_bytes: int) -> None:
        """Apply a new limit on the size of bodies, in bytes."""
        self._max_body = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        leaving = scope[ON_DISCONNECT] = _Leaving()
        try:
            await self._serve(scope, receive, send)
        except _Gone:
            return
        except asyncio.CancelledError:
            if not leaving.left:  # else nobody waits for an answer
                raise

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        headers = dict(scope["headers"])
        is_own = path.startswith("/v2/") or path in ("/v2", "/metrics")
        context = _context("rest" if is_own else "v1", headers)
        call = Call("", None, headers, receive, context)
        answer: Answer | None = None
        try:
            if self._auth.is_enabled:
                self._enter(scope)
            if is_own:
                answer = await self._answer(scope, call)
            else:
                scope, receive = await self._plain(scope, call)
        except OIPError as error:
            answer = failure(error)
            failure_counts.count(self._registry, scope, context, error)
        except asyncio.CancelledError:
            if scope[ON_DISCONNECT].left:
                raise
            # the grace period is over: nobody else cancels
            answer = failure(ModelNotReady("the server stopped before it could answer"))
        except _Gone:
            raise
        except Exception:
            log.exception("%s %s failed", scope["method"], path)
            answer = failure(OIPError("the server failed; its log has the reason"))
        if answer is None:
            await self._fallback(scope, receive, _named(send, context))
            return
        if b"accept-encoding" in headers and len(answer.body) >= MINIMUM:
            answer = await _compressed(answer, headers)
        body, status, fields = answer
        fields = (*fields, (_REQUEST_ID, context.id.encode()))
        respond = scope.get(RESPOND)
        if respond is not None and respond(scope, status, fields, body):
            return
        length = (b"content-length", b"%d" % len(body))
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*fields, length],
            }
        )
        await send({"type": "http.response.body", "body": body})

    def _enter(self, scope: Scope) -> None:
        """Learn who asks, before anything of the body is read.

        What is a model's in V1 is checked where KServe's own router has its name.
        """
        sent = [value for name, value in scope["headers"] if name == _AUTHORIZATION]
        path = scope["path"]
        self._auth.authenticate(
            [value.decode("latin-1") for value in sent], is_open(path)
        )
        if not path.startswith(("/v2", "/v1/")) and path != "/":
            self._auth.require(path)

    async def _answer(self, scope: Scope, call: Call) -> Answer:
        path, method = scope["path"], scope["method"]
        name, version, action = route(path)
        self._auth.require(action, name)
        expected = method_of(action)
        if method != expected and not (method == "HEAD" and expected == "GET"):
            refusals.count(call.context.protocol, MethodNotAllowed.__name__)
            refusal = failure(
                MethodNotAllowed(f"{path}: found method {method}, expected {expected}")
            )
            allow = (b"allow", b"GET, HEAD" if expected == "GET" else b"POST")
            return refusal._replace(headers=(*refusal.headers, allow))
        return await self._actions[action](call._replace(name=name, version=version))

    async def _body(self, call: Call) -> bytes:
        """The whole body, decompressed."""
        length = call.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await call.receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body:
                raise self._too_large()
            parts.append(part)
            more = message.get("more_body", False)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        encoding = call.headers.get(b"content-encoding")
        if encoding is not None:
            loop = asyncio.get_running_loop()  # as for the answer
            body = await loop.run_in_executor(
                None, decompress, body, encoding.decode("latin-1"), self._max_body
            )
        call.context.received(len(body))
        return body

    async def _plain(self, scope: Scope, call: Call) -> tuple[Scope, Receive]:
        """A request for KServe's application, with a body that is bounded and plain."""
        body = await self._body(call)
        hidden = (b"content-encoding", b"content-length", _REQUEST_ID)
        kept = [pair for pair in scope["headers"] if pair[0] not in hidden]
        kept.append((b"content-length", b"%d" % len(body)))
        kept.append((_REQUEST_ID, call.context.id.encode()))
        message = {"type": "http.request", "body": body, "more_body": False}
        messages = iter([message])

        async def receive_plain() -> MutableMapping[str, Any]:
            return next(messages, None) or await call.receive()

        return {**scope, "headers": kept}, receive_plain

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than {self._max_body} bytes, which is max_body_bytes"
        )

    # -- of a model -----------------------------------------------------------

    async def _infer(self, call: Call) -> Answer:
        model = self._registry.find(call.name, call.version)
        try:
            if not model.ready:
                raise model.not_ready()
            body = await self._body(call)
            length = _header_length(call.headers)
            if length == 0:
                request = rest_codec.decode_raw(body, await model.metadata())
            else:
                request = rest_codec.decode(body, length)
            content, head = await model.infer_encoded(
                request, rest_codec.encode, call.context
            )
        except OIPError as error:
            model.count_failure(call.context, error)
            raise
        call.context.answered(len(content))
        if head is None:
            return Answer(content)
        return Answer(content, 200, (_OCTETS, (_HEADER_LENGTH, b"%d" % head)))

    async def _metadata(self, call: Call) -> Answer:
        model = self._registry.find(call.name, call.version)
        versions = self._registry.versions(call.name)
        return _json(documents.metadata(await model.metadata(), call.name, versions))

    async def _ready(self, call: Call) -> Answer:
        try:
            await self._state.model_health(
                call.name, call.version, self._auth.is_enabled
            )
        except ModelNotReady as error:  # an answer, and no refusal
            return failure(error)
        return _json({"name": call.name, "ready": True})

    async def _config(self, call: Call) -> Answer:
        model = self._registry.find(call.name, call.version)
        return _json(documents.config(await model.metadata(), model))

    async def _stats(self, call: Call) -> Answer:
        statistics = await self._state.statistics(call.name, call.version)
        return _json({"model_stats": self._auth.filter_visible(statistics, _name)})

    # -- of the repository ----------------------------------------------------

    async def _index(self, call: Call) -> Answer:
        asked = rest_codec.decode_object(await self._body(call))
        ready = asked.get("ready")
        if not isinstance(ready, (bool, type(None))):
            raise InvalidRequest(
                f"ready: found {describe_value(ready)}, expected true or false"
            )
        index = await self._state.index(bool(ready))
        return _json(self._auth.filter_visible(index, _name))

    async def _load(self, call: Call) -> Answer:
        asked = rest_codec.decode_object(await self._body(call))
        parameters = asked.get("parameters")
        if not isinstance(parameters, (dict, type(None))):
            raise InvalidRequest(
                f"parameters: found {describe_value(parameters)}, expected an object"
            )
        await self._state.load(call.name, parameters or ())
        return _json({"name": call.name, "load": True})

    async def _unload(self, call: Call) -> Answer:
        rest_codec.decode_object(await self._body(call))
        await self._state.unload(call.name)
        return _json({"name": call.name, "unload": True})

    # -- of the server --------------------------------------------------------

    async def _server(self, call: Call) -> Answer:
        return _json(self._state.metadata())

    async def _live(self, call: Call) -> Answer:
        return _json({"live": True})

    async def _health(self, call: Call) -> Answer:
        reasons = await self._state.health(self._auth.is_enabled)
        if reasons:
            document = {"ready": False, "error": "; ".join(reasons)}
            return Answer(orjson.dumps(document), status=503)
        return _json({"ready": True})

    async def _models(self, call: Call) -> Answer:
        return _json({"models": self._auth.filter_visible(self._registry.names(), str)})

    async def _metrics(self, call: Call) -> Answer:
        accept = call.headers.get(b"accept", b"").decode("latin-1")
        encoder, content_type = exposition.choose_encoder(accept)
        headers = ((b"content-type", content_type.encode()),)
        return Answer(encoder(await self._state.metrics()), headers=headers)


def _context(protocol: str, headers: dict[bytes, bytes]) -> RequestContext:
    """The context of a request, which everything that it runs through has from now."""
    carried = {}
    for raw, name in _CARRIED:  # no comprehension: each is a call
        if raw in headers:
            carried[name] = headers[raw].decode("latin-1")
    context = RequestContext(protocol, carried)
    current.set(context)
    return context


def _named(send: Send, context: RequestContext) -> Send:
    """What sends an answer of KServe's application, with the id of its request."""

    well = False

    async def send_named(message: MutableMapping[str, Any]) -> None:
        nonlocal well
        if message["type"] == "http.response.start":
            well = message["status"] == 200
            named = (_REQUEST_ID, context.id.encode())
            message = {**message, "headers": [*message.get("headers", ()), named]}
        elif well:
            context.answered(len(message.get("body", b"")))
        await send(message)

    return send_named


def failure(error: OIPError) -> Answer:
    """The response for an error, with the headers of its kind."""
    extra = [(k.encode(), v.encode()) for k, v in error.headers.items()]
    return Answer(error_body(error), error.http_status, (_JSON, *extra))


async def _compressed(answer: Answer, headers: dict[bytes, bytes]) -> Answer:
    """The answer in the encoding that the client asks for, if it is worth it."""
    encoding = accepted(headers[b"accept-encoding"].decode("latin-1"))
    if encoding is None:
        return answer
    loop = asyncio.get_running_loop()  # zlib takes its time, and lets others run
    body = await loop.run_in_executor(None, compress, answer.body, encoding)
    extra = ((b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding"))
    return Answer(body, answer.status, (*answer.headers, *extra))


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
