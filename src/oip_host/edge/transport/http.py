"""One connection: uvicorn's HTTP with limits on headers, bodies and slow senders.

No request sets a timer. The server sweeps over all connections a few times a second;
each then compares what it waits for with what it waited for before, and ends itself
when it has waited for the same thing for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, ClassVar, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from oip_handler.errors import OIPError
from oip_host.config.settings import Settings
from oip_host.edge.transport.error_body import error_body
from oip_host.edge.transport.head_checks import (
    AmbiguousHead,
    check_head,
    must_stay_encoded,
)
from oip_host.edge.transport.scope import ON_DISCONNECT, RESPOND
from oip_host.telemetry import refusals

__all__ = ["HttpConnection"]

RESERVE = 64
"""Connections beyond the limit that may still send a head: probes are answered."""
RESERVE_S = 1.0
"""Seconds that such a connection has for its request."""
LINGER_S = 2.0
"""Seconds for which a refused client may go on sending, so that it gets its answer."""
_JOINED = 1 << 16
"""Bytes of a body below which it is copied behind its head, to be written with it."""


class Await(Enum):
    """The events that a connection can wait for."""

    SERVER = "server"
    """The server itself: the client has done its part."""
    HEAD = "head"
    BODY = "body"
    REQUEST = "request"
    """The next request on an idle connection."""
    CLOSE = "close"
    """The client's end of a connection whose last answer is written."""


@dataclass(frozen=True)
class Waiting:
    """The event that a connection waits for, its progress, and its start."""

    for_what: Await = Await.SERVER
    scope: object = None
    """The request that it belongs to."""
    unsent: int = 0
    """Bytes of answers that the client has not read yet."""
    since: float = 0.0


class HttpConnection(HttpToolsProtocol):
    """One connection, which answers its own failures in the form of all others."""

    limits: ClassVar[Settings]
    _max_head: ClassVar[int]
    refusals_by_text: ClassVar[Counter[str]]
    """How often each refusal was given since the last line of the log."""
    ending: ClassVar[bool] = False
    """True when each connection is to close after its next response."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_leniencies()
        self._head_bytes = 0  # read for the message since its last body, by whole reads
        self._in_reserve = False
        self._is_upgrade_read = False  # the second parser has completed its one body
        self._is_refused = False
        self._waiting = Waiting()

    @classmethod
    def set_limits(cls, limits: Settings) -> None:
        """Apply the limits of these options to every connection, open ones too."""
        cls.limits, cls._max_head = limits, limits.oip_max_header_bytes

    def connection_made(  # type: ignore[override]  # as uvicorn's own
        self, transport: asyncio.Transport
    ) -> None:
        """Refuse the connection where even the reserve is full."""
        super().connection_made(transport)
        beyond = len(self.connections) - self.limits.oip_max_connections
        self._in_reserve = beyond > 0
        if beyond > RESERVE:
            self._refuse_connection()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that its client is gone."""
        super().connection_lost(exc)
        if self.cycle is None:
            return
        scope = cast("dict[str, Any]", self.cycle.scope)
        scope.pop(RESPOND, None)  # which would keep this object alive
        if not self.cycle.response_complete and ON_DISCONNECT in scope:
            scope[ON_DISCONNECT]()

    def data_received(self, data: bytes) -> None:
        """Feed the parser as uvicorn does, with a limit on headers and no log lines."""
        if self._is_refused:
            return
        size = self._head_bytes = self._head_bytes + len(data)
        try:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                self._ignore_upgrade(data[upgrade.args[0] :])
        except HttpParserError as error:
            if isinstance(error.__context__, AmbiguousHead):
                self.refuse(error.__context__.status, error.__context__.text)
            elif not self._is_upgrade_read:
                self.refuse(400, "not a valid HTTP/1.1 request")
            self._is_upgrade_read = False
        if size > self._max_head:
            self._check_head_size()
        if self._in_reserve:
            self._check_reserve()

    def on_headers_complete(self) -> None:
        """Check the head, then begin the request as uvicorn does."""
        fields = check_head(self.parser.get_http_version(), self.headers)
        # the middleware of the access log wants `send`, and `respond` keeps alive
        if not self.limits.kserve_access_log_format and self.parser.should_keep_alive():
            cast("dict[str, Any]", self.scope)[RESPOND] = self.respond
        super().on_headers_complete()
        if b"%" in self.url and must_stay_encoded(self.scope["raw_path"]):
            self.scope["path"] = self.scope["raw_path"].decode()
        if self.ending:
            self.cycle.keep_alive = False
        if b"transfer-encoding" in fields:  # what follows as trailers is no header
            self.headers = self.headers.copy()
        elif len(fields.get(b"content-length", b"")) > 5:
            self.cycle.__class__ = _Cycle  # a hundred thousand bytes or more
            cast("_Cycle", self.cycle).collect_body(self.limits.oip_max_body_bytes)

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body to the request."""
        self._head_bytes = 0
        if not isinstance(self.cycle, _Cycle):
            super().on_body(body)
        elif not self.cycle.response_complete:
            self.cycle.add(body)

    def on_message_complete(self) -> None:
        """End the request as uvicorn does, and count the next head anew."""
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on as uvicorn does, without its timer: the sweep ends idle connections."""
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
        """Write a whole response at once, or return False to leave it to uvicorn.

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

    def _check_head_size(self) -> None:
        """Refuse a head, or trailers, that are too large.

        An incomplete head is measured by the bytes read for it, and one that came in
        the same read as what follows it by its fields.
        """
        if self._head_bytes > self._max_head or self._head_size() > self._max_head:
            self.refuse(
                431,
                f"the headers of the request are larger than {self._max_head} bytes, "
                "which is max_header_bytes",
            )

    def _head_size(self) -> int:
        """Return the bytes of the last head, line ends included."""
        line = len(self.scope.get("method", "")) + len(self.url) + len("  HTTP/1.1\r\n")
        fields = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return line + fields + len("\r\n")

    def _check_reserve(self) -> None:
        """Refuse a request beyond the limit once its path shows that it is no probe."""
        path = (self.scope or {}).get("path")
        if not self._is_beyond_limit() or path is None:
            return
        if _is_probe(path):
            self.cycle.keep_alive = False
        else:
            self._refuse_connection(linger=self.cycle.more_body)

    def _is_beyond_limit(self) -> bool:
        """Return True as long as there are too many connections for this one."""
        if len(self.connections) <= self.limits.oip_max_connections:
            self._in_reserve = False
        return self._in_reserve

    def _refuse_connection(self, linger: bool = False) -> None:
        limit = self.limits.oip_max_connections
        text = f"the server has {limit} connections, which is max_connections"
        self.refuse(503, text, linger)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the body of a request that asks for another protocol, and stay at HTTP.

        RFC 9110 allows a server to ignore Upgrade. The parser takes such a message for
        complete after its head, so a second parser reads its body.
        """
        framing = (b"content-length", b"transfer-encoding")
        fields = [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in framing]
        if fields:
            self.cycle.more_body = True
            self.cycle.message_event.clear()
            self.parser = HttpRequestParser(_Body(self))
            head = b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(fields)
            self.parser.feed_data(head + rest)

    def _set_leniencies(self) -> None:
        """Answer the last request of a connection even if more data follow it.

        Newer versions of uvicorn do the same; httptools before 0.6.3 cannot.
        """
        with contextlib.suppress(AttributeError):
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def finish_upgrade_body(self) -> None:
        """Replace the second parser by one of the ordinary kind."""
        self._is_upgrade_read = True
        self.parser = HttpRequestParser(self)
        self._set_leniencies()
        self.on_message_complete()

    def refuse(self, status: int, text: str, linger: bool = True) -> None:
        """Answer with an error and end the connection, whatever its state.

        With `linger` data that the client still sends are read for a moment and thrown
        away: closing a connection with unread data would lose the answer.
        """
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self.refusals_by_text[f"{status} {text}"] += 1
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

    def check_time(self, now: float) -> None:
        """End a connection that has waited for the same thing for too long."""
        for_what, unsent = self._next_step()
        before = self._waiting
        if (
            for_what is not before.for_what
            or unsent != before.unsent
            or self.scope is not before.scope
        ):
            self._waiting = Waiting(for_what, self.scope, unsent, now)
        elif now - before.since > self._allowed_s(for_what):
            self._end(for_what)

    def _next_step(self) -> tuple[Await, int]:
        """Return what happens next on the connection, and the bytes still unsent."""
        cycle = self.cycle
        if self._is_refused or self.transport.is_closing():
            return Await.CLOSE, self.transport.get_write_buffer_size()
        is_answered = cycle is None or cycle.response_complete
        if cycle is None or cycle.scope is not self.scope:
            return Await.HEAD if is_answered else Await.SERVER, 0
        if self.pipeline or self.flow.read_paused:
            return Await.SERVER, 0
        if cycle.more_body:
            return Await.BODY, 0
        return Await.REQUEST if is_answered else Await.SERVER, 0

    def _allowed_s(self, for_what: Await) -> float:
        """Return how many seconds the client has for a step."""
        limits = self.limits
        if for_what is Await.HEAD:
            seconds = limits.oip_header_timeout_s
            return min(seconds, RESERVE_S) if self._is_beyond_limit() else seconds
        if for_what is Await.BODY:
            return limits.oip_body_timeout_s
        if for_what is Await.REQUEST:
            return self.timeout_keep_alive
        if for_what is Await.CLOSE:
            return LINGER_S if self._is_refused else limits.oip_body_timeout_s
        return float("inf")

    def _end(self, for_what: Await) -> None:
        """End a connection whose client is late with a step."""
        if for_what is Await.CLOSE:
            self.transport.abort()
        elif for_what is Await.HEAD and self._in_reserve:
            self._refuse_connection()
        elif for_what is Await.HEAD:
            self._refuse_late(for_what, "header_timeout_s", linger=False)
        elif for_what is Await.BODY and not self.cycle.response_started:
            self._refuse_late(for_what, "body_timeout_s", linger=True)
        else:
            self.transport.close()

    def _refuse_late(self, what: Await, option: str, linger: bool) -> None:
        text = f"the {what.value} of the request was not complete within"
        seconds = self._allowed_s(what)
        self.refuse(408, f"{text} {seconds:g} s, which is {option}", linger)


class _Cycle(RequestResponseCycle):
    """A request with a large body, which `receive` returns whole, copied only once.

    Every application behind this server wants all of a body, and it is bounded.
    """

    def collect_body(self, most_bytes: int) -> None:
        """Begin with the body."""
        self._parts: list[bytes] | None = []
        """What has arrived of it; None once `receive` has returned it."""
        self._left = most_bytes

    def add(self, part: bytes) -> None:
        """Add to the body."""
        if self._parts is not None:
            self._parts.append(part)
            self._left -= len(part)
            if self._left < 0:
                self.message_event.set()

    async def receive(self) -> Any:
        """Return the body once it is complete or too large, and then the end."""
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
    """The callbacks of a parser that reads one body and stops at its end."""

    def __init__(self, http: HttpConnection) -> None:
        self._http = http
        self.on_body = http.on_body

    def on_message_complete(self) -> None:
        self._http.finish_upgrade_body()
        raise StopIteration


def _is_probe(path: str) -> bool:
    """Return True for a path of health, which a full server answers too."""
    return (
        path.startswith("/v2/health/") or path.endswith("/ready") or path == "/metrics"
    )


def _response(status: int, text: str) -> bytes:
    """Return a whole response, after which the connection is closed."""
    body = error_body(OIPError(text))
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\n"
        b"x-content-type-options: nosniff\r\n%b"
        b"content-length: %d\r\nconnection: close\r\n\r\n%b"
    ) % (status, HTTPStatus(status).phrase.encode(), retry, len(body), body)
