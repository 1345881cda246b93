"""uvicorn's HTTP, with the host's limits on connections, headers and slow senders.

No request sets a timer. One sweep over all connections, a few times a second, sees in
uvicorn's own state what each of them waits for, and ends those that wait for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, ClassVar, cast

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from oip_handler.errors import OIPError
from oip_host.config.settings import Settings
from oip_host.edge.transport.error_body import error_body
from oip_host.edge.transport.head_checks import Ambiguous, checked, stays_encoded
from oip_host.edge.transport.scope import LEFT, RESPOND
from oip_host.telemetry import refusals

__all__ = ["HttpServer", "limited"]

log = logging.getLogger("oip_host")

RESERVE = 64
"""Connections beyond the limit that are still asked what they want: probes may pass."""
RESERVE_S = 1.0
"""Seconds that such a connection has for its request."""
LINGER_S = 2.0
"""Seconds for which a refused client may go on sending, so that it gets its answer."""
_JOINED = 1 << 16
"""Bytes of a body below which it is copied behind its head, to be written with it."""
LAST_S = 0.1
"""Seconds in which open connections may still bring a request as the server ends."""
TELL_EVERY_S = 10.0
"""Seconds between two lines of the log on what was refused."""


def limited(settings: Settings) -> type[Http]:
    """The class of one server's connections."""

    class Limited(Http):
        refused: ClassVar[Counter[str]] = Counter()

    Limited.hold_to(settings)
    return Limited


class Http(HttpToolsProtocol):
    """One connection, which tells of every failure in the form of all others."""

    limits: ClassVar[Settings]
    _max_head: ClassVar[int]
    refused: ClassVar[Counter[str]]
    """How often each refusal was given since the log told of it."""
    ending: ClassVar[bool] = False
    """Whether each connection ends with its next response."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tolerate()
        self._unbodied = 0  # bytes of the message that are no body, by whole reads
        self._spare = False  # from the reserve
        self._stayed = False  # the one body of a second parser is complete
        self._refused = False
        self._owed = ("", 0)
        self._owed_for: object = None
        self._owed_since = 0.0

    @classmethod
    def hold_to(cls, limits: Settings) -> None:
        """Have the limits of these options for every connection, from now on."""
        cls.limits, cls._max_head = limits, limits.oip_max_header_bytes

    def connection_made(  # type: ignore[override]  # as uvicorn's own
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        beyond = len(self.connections) - self.limits.oip_max_connections
        self._spare = beyond > 0
        if beyond > RESERVE:
            self._refuse_connection()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.cycle is None:
            return
        scope = cast("dict[str, Any]", self.cycle.scope)
        scope.pop(RESPOND, None)  # which would keep this object alive
        if not self.cycle.response_complete and LEFT in scope:
            scope[LEFT]()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, with the limit on headers, and without its lines in the log."""
        if self._refused:
            return
        size = self._unbodied = self._unbodied + len(data)
        try:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                self._stay(data[upgrade.args[0] :])
        except HttpParserError as error:
            if isinstance(error.__context__, Ambiguous):
                self.refuse(error.__context__.status, error.__context__.text)
            elif not self._stayed:
                self.refuse(400, "the request is no valid HTTP/1.1")
            self._stayed = False
        if size > self._max_head:
            self._hold_to_size()
        if self._spare:
            self._hold_to_reserve()

    def on_headers_complete(self) -> None:
        fields = checked(self.parser.get_http_version(), self.headers)
        # the middleware of the access log wants `send`, and `respond` keeps alive
        if not self.limits.kserve_access_log_format and self.parser.should_keep_alive():
            cast("dict[str, Any]", self.scope)[RESPOND] = self.respond
        super().on_headers_complete()
        if b"%" in self.url and stays_encoded(self.scope["raw_path"]):
            self.scope["path"] = self.scope["raw_path"].decode()
        if self.ending:
            self.cycle.keep_alive = False
        if b"transfer-encoding" in fields:  # what follows as trailers is no header
            self.headers = self.headers.copy()
        elif len(fields.get(b"content-length", b"")) > 5:
            self.cycle.__class__ = _Cycle  # a hundred thousand bytes or more
            cast("_Cycle", self.cycle).expect(self.limits.oip_max_body_bytes)

    def on_body(self, body: bytes) -> None:
        self._unbodied = 0
        if not isinstance(self.cycle, _Cycle):
            super().on_body(body)
        elif not self.cycle.response_complete:
            self.cycle.take(body)

    def on_message_complete(self) -> None:
        self._unbodied = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, but without its timer: the sweep sees an idle connection."""
        if self.pipeline:  # uvicorn starts the next one, and no timer
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            if not self.transport.is_closing():
                self.flow.resume_reading()

    def respond(
        self,
        scope: Any,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
    ) -> bool:
        """Write a whole response at once; False where only uvicorn's own way will do.

        The headers are the host's own, and known to be valid.
        """
        cycle = self.cycle
        ordinary = (
            cycle.scope is scope
            and cycle.keep_alive
            and not (cycle.response_started or cycle.disconnected)
            and not self.flow.write_paused
            and scope["method"] != "HEAD"
        )
        if not ordinary:
            return False
        fields = [*cycle.default_headers, *headers]
        head = b"".join([b"%b: %b\r\n" % field for field in fields])
        start = b"%b%bcontent-length: %d\r\n\r\n" % (
            STATUS_LINE[status], head, len(body)
        )  # fmt: skip
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        if len(body) < _JOINED:
            self.transport.write(start + body)
        else:
            self.transport.write(start)
            self.transport.write(body)
        cycle.message_event.set()
        cycle.on_response()
        return True

    def _hold_to_size(self) -> None:
        """Refuse a head, or trailers, that are too large.

        One that is not complete yet is known by the bytes that were read for it, and
        one that came in the same read as what follows it by the fields that it had.
        """
        if self._unbodied > self._max_head or self._head_size() > self._max_head:
            self.refuse(
                431,
                f"the headers of the request are larger than {self._max_head} bytes, "
                "which is max_header_bytes",
            )

    def _head_size(self) -> int:
        """The bytes of the last head, line ends and all."""
        line = len(self.scope.get("method", "")) + len(self.url) + len("  HTTP/1.1\r\n")
        fields = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return line + fields + len("\r\n")

    def _hold_to_reserve(self) -> None:
        """Refuse a request beyond the limit, once its path says that it is no probe."""
        path = (self.scope or {}).get("path")
        if not self._beyond() or path is None:
            return
        if _is_probe(path):
            self.cycle.keep_alive = False
        else:
            self._refuse_connection(linger=self.cycle.more_body)

    def _beyond(self) -> bool:
        """Whether there is no place for this connection, or still none."""
        if len(self.connections) <= self.limits.oip_max_connections:
            self._spare = False
        return self._spare

    def _refuse_connection(self, linger: bool = False) -> None:
        limit = self.limits.oip_max_connections
        text = f"the server has {limit} connections, which is max_connections"
        self.refuse(503, text, linger)

    def _stay(self, rest: bytes) -> None:
        """Read the body of a request that would change to another protocol after it.

        The host speaks no other, and HTTP lets it go on as if nobody had asked. The
        parser took the message for complete after its head, so another reads its body.
        """
        framing = (b"content-length", b"transfer-encoding")
        fields = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in framing]
        if fields:
            self.cycle.more_body = True
            self.cycle.message_event.clear()
            self.parser = HttpRequestParser(_Body(self))
            head = b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(fields)
            self.parser.feed_data(head + rest)

    def _tolerate(self) -> None:
        """Answer the last request of a connection, whatever else was sent behind it.

        As newer versions of uvicorn do; httptools before 0.6.3 cannot.
        """
        with contextlib.suppress(AttributeError):
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def body_complete(self) -> None:
        """Go on with a parser as it was before."""
        self._stayed = True
        self.parser = HttpRequestParser(self)
        self._tolerate()
        self.on_message_complete()

    def refuse(self, status: int, text: str, linger: bool = True) -> None:
        """Answer with an error, and end the connection whatever it was about to do.

        With `linger` what the client still sends is read for a moment, and thrown away:
        a connection that is closed with something unread takes the answer with it.
        """
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.refused[f"{status} {text}"] += 1
        refusals.count("rest", HTTPStatus(status).name)
        self.transport.write(_response(status, text))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
        self.flow.resume_reading()
        if self.pipeline or not linger:  # an earlier request might still be answered
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    def hold_to_time(self, now: float) -> None:
        """End a connection that has waited for one and the same thing for too long."""
        owed = self._owes()
        if owed != self._owed or self.scope is not self._owed_for:
            self._owed, self._owed_for, self._owed_since = owed, self.scope, now
        elif now - self._owed_since > self._seconds(owed[0]):
            self._end(owed[0])

    def _owes(self) -> tuple[str, int]:
        """What the client has to do next, and how far it is with it."""
        cycle = self.cycle
        if self._refused or self.transport.is_closing():
            return "close", self.transport.get_write_buffer_size()
        answered = cycle is None or cycle.response_complete
        if cycle is None or cycle.scope is not self.scope:
            return "head" if answered else "", 0
        if self.pipeline or self.flow.read_paused:  # it waits for the server
            return "", 0
        if cycle.more_body:
            return "body", 0
        return "request" if answered else "", 0

    def _seconds(self, owed: str) -> float:
        """How long the client has for it."""
        if owed == "head":
            seconds = self.limits.oip_header_timeout_s
            return min(seconds, RESERVE_S) if self._beyond() else seconds
        if owed == "body":
            return self.limits.oip_body_timeout_s
        if owed == "request":
            return self.timeout_keep_alive
        if owed == "close":
            return LINGER_S if self._refused else self.limits.oip_body_timeout_s
        return float("inf")

    def _end(self, owed: str) -> None:
        """End a connection that is late with what it owes."""
        if owed == "close":
            self.transport.abort()
        elif owed == "head" and self._spare:
            self._refuse_connection()
        elif owed == "head":
            self._refuse_late("head", "header_timeout_s", linger=False)
        elif owed == "body" and not self.cycle.response_started:
            self._refuse_late("body", "body_timeout_s", linger=True)
        else:
            self.transport.close()

    def _refuse_late(self, what: str, option: str, linger: bool) -> None:
        text = f"the {what} of the request was not complete within"
        self.refuse(408, f"{text} {self._seconds(what):g} s, which is {option}", linger)


class _Cycle(RequestResponseCycle):
    """A request with a large body, which is given out at once, and copied only once.

    Every application behind this server wants all of a body, and it is bounded.
    """

    def expect(self, most_bytes: int) -> None:
        """Begin with the body."""
        self._parts: list[bytes] | None = []
        """What has come of it; None once it was given out."""
        self._left = most_bytes

    def take(self, part: bytes) -> None:
        """Add to the body."""
        if self._parts is not None:
            self._parts.append(part)
            self._left -= len(part)
            if self._left < 0:
                self.message_event.set()

    async def receive(self) -> Any:
        """The body as soon as all of it is there, or too much, and then the end."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while not (self.disconnected or self.response_complete):
            if self._parts is not None and (self._left < 0 or not self.more_body):
                parts, self._parts = self._parts, None
                body = parts[0] if len(parts) == 1 else b"".join(parts)
                return {
                    "type": "http.request",
                    "body": body,
                    "more_body": self.more_body,
                }
            self.message_event.clear()
            await self.message_event.wait()
        return {"type": "http.disconnect"}


class _Body:
    """What a parser calls that is there for one body, and stops at its end."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.on_body = http.on_body

    def on_message_complete(self) -> None:
        self._http.body_complete()
        raise StopIteration


class HttpServer(uvicorn.Server):
    """uvicorn with the sweep, and without its signal handlers: the host has its own.

    Its configuration has `limited(settings)` as `http`, and `"none"` as `ws`.
    """

    def __init__(
        self, config: uvicorn.Config, context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(config)
        self._context = context
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._http = cast("type[Http]", config.http)
        self._refused = self._http.refused
        self._told = -TELL_EVERY_S
        self.hold_to(self._http.limits)
        self._now = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def hold_to(self, limits: Settings) -> None:
        """Have the limits of these options from now on."""
        self._http.hold_to(limits)
        shortest = min(limits.oip_header_timeout_s, limits.oip_body_timeout_s)
        self._every_s = min(max(shortest / 4, 0.01), 0.5)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # which would give a TLS handshake a minute
        for bound in sockets or ():
            self.servers.append(await self._listen(bound))
        self._sweep()
        self._listening.set()

    async def _listen(self, bound: socket.socket) -> asyncio.Server:
        """Take connections, with as much time for a handshake as for a head."""
        seconds = self._http.limits.oip_header_timeout_s
        return await asyncio.get_running_loop().create_server(
            lambda: self._http(self.config, self.server_state, self.lifespan.state),
            sock=bound,
            backlog=self.config.backlog,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else seconds,
        )

    async def begin(self, bound: socket.socket) -> None:
        """Serve at a socket until `end`, and wait until connections are taken."""
        self._task = asyncio.create_task(self.serve(sockets=[bound]))
        await self.listening()

    async def end(self, grace_s: float) -> None:
        """Take no new work, and wait up to `grace_s` seconds for what is in flight."""
        assert self._task is not None
        self.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self.should_exit = True
        await self._task

    async def listening(self) -> None:
        """Wait until connections are taken."""
        await self._listening.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but what is on its way on an open connection is answered."""
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        self._http.ending = True
        if not self.force_exit:
            await asyncio.sleep(LAST_S)
        await super().shutdown(sockets)
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        """Hold every connection to its time, now and from now on.

        Time is counted in sweeps: while the loop is held up no client is late.
        """
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._every_s, self._sweep)
        self._now += self._every_s
        for connection in list(self.server_state.connections):
            cast("Http", connection).hold_to_time(self._now)
        if self._refused and self._now >= self._told + TELL_EVERY_S:
            self._told = self._now
            for refusal, times in self._refused.items():
                log.warning("%d refused: %s", times, refusal)
            self._refused.clear()


def _is_probe(path: str) -> bool:
    """Whether a path tells of health, which has to be seen of a full server too."""
    return (
        path.startswith("/v2/health/") or path.endswith("/ready") or path == "/metrics"
    )


def _response(status: int, text: str) -> bytes:
    """A whole response, after which the connection is closed."""
    body = error_body(OIPError(text))
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\n"
        b"x-content-type-options: nosniff\r\n%b"
        b"content-length: %d\r\nconnection: close\r\n\r\n%b"
    ) % (status, HTTPStatus(status).phrase.encode(), retry, len(body), body)
