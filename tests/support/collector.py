"""A collector of OpenTelemetry: receives spans by OTLP over HTTP and keeps them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from support.process import wait_for


@dataclass(frozen=True)
class Spanned:
    """A span as received; ids in hexadecimal, times in nanoseconds."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    links: list[tuple[str, str]]
    """The trace and the id of each."""
    failed: bool
    resource: dict[str, Any]
    state: str

    @property
    def key(self) -> tuple[str, str]:
        """Return the ids that a link has."""
        return self.trace, self.id

    def within(self, other: Spanned) -> bool:
        """Return whether the other is its parent and encloses it in time."""
        is_child = (self.trace, self.parent) == other.key
        return is_child and other.began <= self.began <= self.ended <= other.ended


class Collector:
    """Listens on a free loopback port; `env` makes a host export to it.

    It answers each export with `status`; with None it accepts connections and never
    answers.
    """

    def __init__(self, status: int | None = 200) -> None:
        self.spans: list[Spanned] = []
        self.status = status
        self.asked = 0
        """How many exports there were."""
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "OIP_TRACING": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.asked += 1
                if collector.status is None:
                    collector.released.wait(60)
                    return
                if collector.status == 200 and self.path == "/v1/traces":
                    collector.spans += _decoded(body)
                self.send_response(collector.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        return Handler

    def of(self, request_id: str) -> list[Spanned]:
        """Wait for a request's own span, and return its trace's spans by time."""
        own = wait_for(lambda: self.infer(request_id), f"the span of {request_id}")
        found = [span for span in self.spans if span.trace == own.trace]
        return sorted(found, key=lambda span: (span.began, -span.ended))

    def infer(self, request_id: str, protocol: str | None = None) -> Spanned | None:
        """Return the span of a request by its id; None before it arrives."""
        for span in self.spans:
            known = span.attributes
            is_way = protocol is None or protocol == known.get("oip.protocol")
            if known.get("oip.request_id") == request_id and is_way:
                return span
        return None

    def __enter__(self) -> Collector:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _decoded(body: bytes) -> list[Spanned]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _span(span, _plain(resources.resource.attributes))
        for resources in request.resource_spans
        for scope in resources.scope_spans
        for span in scope.spans
    ]


def _span(span: Any, resource: dict[str, Any]) -> Spanned:
    return Spanned(
        name=span.name,
        kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes=_plain(span.attributes),
        events=[(event.name, _plain(event.attributes)) for event in span.events],
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        resource=resource,
        state=span.trace_state,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value"))
        for pair in attributes
    }
