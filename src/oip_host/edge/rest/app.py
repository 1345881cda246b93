"""V2 over HTTP: a plain ASGI application in front of KServe's own.

`RestEdge._serve` is the way of a request: a context, authentication, its route or
KServe's application, the answer to a failure, compression, the response.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from oip_handler.errors import MethodNotAllowed, ModelNotReady, OIPError
from oip_host.auth.authorizer import Authorizer
from oip_host.edge.common import failure_counts
from oip_host.edge.rest.compression import MINIMUM, choose_encoding, compress
from oip_host.edge.rest.endpoints import (
    Answer,
    ClientGone,
    Endpoints,
    Request,
    error_answer,
)
from oip_host.edge.rest.routes import Route, find_route, is_open
from oip_host.edge.transport.scope import ON_DISCONNECT, RESPOND
from oip_host.models.server_state import ServerState
from oip_host.telemetry import refusals
from oip_host.telemetry.context import (
    CONTEXT_HEADERS,
    REQUEST_ID,
    RequestContext,
    current,
)

__all__ = ["RestEdge"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("oip_host")

_REQUEST_ID = REQUEST_ID.encode()
_AUTHORIZATION = b"authorization"
_CONTEXT_HEADERS = [(name.encode(), name) for name in CONTEXT_HEADERS]


class _Departure:
    """The end of a request whose client goes away: the server calls it."""

    __slots__ = ("_task", "has_happened")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self.has_happened = False

    def __call__(self) -> None:
        self.has_happened = True
        assert self._task is not None
        self._task.cancel()


class RestEdge:
    """The application that answers `/v2…` and `/metrics`; `fallback` has the rest."""

    def __init__(
        self,
        state: ServerState,
        fallback: App,
        max_body_bytes: int,
        authorizer: Authorizer,
    ) -> None:
        self._auth = authorizer
        self._needs_token = authorizer.is_enabled
        self._registry = state.registry
        self._fallback = fallback
        self._max_body = max_body_bytes
        self._endpoints = Endpoints(state, authorizer).by_action()

    def set_max_body(self, max_body_bytes: int) -> None:
        """Apply a new limit on the size of bodies, in bytes."""
        self._max_body = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, unless its client goes away before."""
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        departure = scope[ON_DISCONNECT] = _Departure()
        try:
            await self._serve(scope, receive, send)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not departure.has_happened:  # else nobody waits for an answer
                raise

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        is_own = path.startswith("/v2/") or path in ("/v2", "/metrics")
        headers = dict(scope["headers"])
        context = _begin_context("rest" if is_own else "v1", headers)
        request = Request(headers, receive, context, self._max_body)
        try:
            if self._needs_token:
                self._authenticate(scope)
            if is_own:
                answer = await self._answer(scope, request)
            else:
                scope, receive = await self._buffer(scope, request)
        except (Exception, asyncio.CancelledError) as error:
            answer = self._answer_failure(scope, context, error)
        else:
            if not is_own:
                await self._fallback(scope, receive, _with_id(send, context))
                return
        if b"accept-encoding" in headers and len(answer.body) >= MINIMUM:
            answer = await _compress(answer, headers)
        body, status, fields = answer
        fields = (*fields, (_REQUEST_ID, context.id.encode()))
        respond = scope.get(RESPOND)
        if respond is None or not respond(scope, status, fields, body):
            await _send(send, Answer(body, status, fields))

    def _authenticate(self, scope: Scope) -> None:
        """Identify the client before anything of the body is read.

        Its right to a model by V1 is checked where KServe's router has the name.
        """
        path = scope["path"]
        values = [
            value.decode("latin-1")
            for name, value in scope["headers"]
            if name == _AUTHORIZATION
        ]
        self._auth.authenticate(values, is_open(path))
        if not path.startswith(("/v2", "/v1/")) and path != "/":
            self._auth.require(path)

    async def _answer(self, scope: Scope, request: Request) -> Answer:
        """Find the route, check the client's right to it, and ask its endpoint."""
        route = find_route(scope["path"])
        if self._needs_token:
            self._auth.require(route.action, route.name)
        method, expected = scope["method"], route.method
        if method != expected and not (method == "HEAD" and expected == "GET"):
            return _reject_method(scope, request.context, route)
        return await self._endpoints[route.action](request, route)

    async def _buffer(self, scope: Scope, request: Request) -> tuple[Scope, Receive]:
        """Return scope and `receive` for KServe's application: the body is complete.

        It is decompressed and within the limit, and the request has its id.
        """
        body = await request.read_body()
        replaced = (b"content-encoding", b"content-length", _REQUEST_ID)
        headers = [pair for pair in scope["headers"] if pair[0] not in replaced]
        headers.append((b"content-length", b"%d" % len(body)))
        headers.append((_REQUEST_ID, request.context.id.encode()))
        message = {"type": "http.request", "body": body, "more_body": False}
        messages = iter([message])

        async def receive_body() -> MutableMapping[str, Any]:
            return next(messages, None) or await request.receive()

        return {**scope, "headers": headers}, receive_body

    def _answer_failure(
        self, scope: Scope, context: RequestContext, error: BaseException
    ) -> Answer:
        """Return the answer to a failure; raise it where nobody waits for one."""
        if isinstance(error, OIPError):
            failure_counts.count(self._registry, scope, context, error)
            return error_answer(error)
        if isinstance(error, ClientGone):
            raise error
        if isinstance(error, asyncio.CancelledError):
            if scope[ON_DISCONNECT].has_happened:
                raise error
            # the grace period is over: nobody else cancels
            stopped = "the server stopped before it could answer"
            return error_answer(ModelNotReady(stopped))
        log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
        return error_answer(OIPError("the server failed; its log has the reason"))


def _begin_context(protocol: str, headers: dict[bytes, bytes]) -> RequestContext:
    """Return the context of a request, and make it the current one."""
    carried = {}
    for raw, name in _CONTEXT_HEADERS:  # a comprehension would cost a call
        if raw in headers:
            carried[name] = headers[raw].decode("latin-1")
    context = RequestContext(protocol, carried)
    current.set(context)
    return context


def _reject_method(scope: Scope, context: RequestContext, route: Route) -> Answer:
    """Return the answer to a request with the wrong method, and count it."""
    refusals.count(context.protocol, MethodNotAllowed.__name__)
    answer = error_answer(
        MethodNotAllowed(
            f"{scope['path']}: found method {scope['method']}, expected {route.method}"
        )
    )
    allow = (b"allow", b"GET, HEAD" if route.method == "GET" else b"POST")
    return answer._replace(headers=(*answer.headers, allow))


async def _compress(answer: Answer, headers: dict[bytes, bytes]) -> Answer:
    """Return the answer in the encoding that the client prefers, if there is one."""
    encoding = choose_encoding(headers[b"accept-encoding"].decode("latin-1"))
    if encoding is None:
        return answer
    loop = asyncio.get_running_loop()  # zlib would hold up the others
    body = await loop.run_in_executor(None, compress, answer.body, encoding)
    extra = ((b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding"))
    return Answer(body, answer.status, (*answer.headers, *extra))


async def _send(send: Send, answer: Answer) -> None:
    """Send an answer the ordinary way of ASGI."""
    length = (b"content-length", b"%d" % len(answer.body))
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [*answer.headers, length],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})


def _with_id(send: Send, context: RequestContext) -> Send:
    """Return a `send` for KServe's application that adds the request's id."""
    is_ok = False

    async def send_with_id(message: MutableMapping[str, Any]) -> None:
        nonlocal is_ok
        if message["type"] == "http.response.start":
            is_ok = message["status"] == 200
            pair = (_REQUEST_ID, context.id.encode())
            message = {**message, "headers": [*message.get("headers", ()), pair]}
        elif is_ok:
            context.count_response(len(message.get("body", b"")))
        await send(message)

    return send_with_id
