"""The spans of requests by OpenTelemetry: each request's own, and those within it.

Imported by `exporting` alone, where the host traces: OpenTelemetry is an extra.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import importlib_metadata
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

from oip_handler import errors
from oip_handler.errors import CLIENTS_FAULT, OIPError
from oip_host.telemetry.context import RequestContext

if TYPE_CHECKING:
    from oip_host.lanes.lane import Job

__all__ = ["BatchSpan", "RequestSpan", "Tracing"]

_HTTP = {"http.request.method": "POST"}
_WAYS: dict[str, dict[str, str]] = {
    "rest": {**_HTTP, "http.route": "/v2/models/{model}/infer"},
    "v1": _HTTP,  # its route is KServe's
    "grpc": {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
    },
}
"""What OpenTelemetry's conventions call the way on which a request came."""


class Tracing:
    """Gives requests their spans, which a provider of OpenTelemetry takes."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        version = importlib_metadata.version("oip-host")
        self._tracer = provider.get_tracer("oip_host", version)

    def begin(self, context: RequestContext) -> None:
        """Begin the span of a request that has found its model, unless it has one."""
        if context.span is None:
            context.span = RequestSpan(self._tracer, context)


class _Around:
    """A span, or one that is not recorded, in which a handler is called."""

    __slots__ = ("recorded", "span", "tracer", "within", "zero_ns")

    tracer: trace.Tracer
    span: Span
    within: Context
    """That of what runs in the span."""
    recorded: bool
    zero_ns: int
    """The time since the epoch at which `time.perf_counter` was 0."""

    def calling(self, call: Callable[..., Any], *args: Any) -> Any:
        """What a call of the handler returns, in a span of its own."""
        with self._handling(SpanKind.INTERNAL):
            return call(*args)

    async def calling_async(
        self, elsewhere: bool, call: Callable[..., Awaitable[Any]], *args: Any
    ) -> Any:
        """As `calling`; a handler that is elsewhere has another span there."""
        with self._handling(SpanKind.CLIENT if elsewhere else SpanKind.INTERNAL):
            return await call(*args)

    @contextmanager
    def _handling(self, kind: SpanKind) -> Iterator[None]:
        span, within = None, self.within
        if self.recorded:
            span = self.tracer.start_span(
                "handler", within, kind, start_time=self.now_ns()
            )
            within = trace.set_span_in_context(span, within)
        token = attach(within)
        try:
            yield
        except BaseException as error:
            if span is not None:
                _failed(span, error)
            raise
        finally:
            detach(token)
            if span is not None:
                span.end(self.now_ns())

    def inject(self, headers: dict[str, str]) -> None:
        """Add what tells another process of the span that is the current one."""
        propagate.inject(headers)

    def ids(self) -> dict[str, str]:
        """The ids of the trace and of the innermost span, as log lines have them."""
        found = trace.get_current_span().get_span_context()
        if not found.is_valid:
            found = self.span.get_span_context()
        if not found.is_valid:
            return {}
        return {
            "trace_id": trace.format_trace_id(found.trace_id),
            "span_id": trace.format_span_id(found.span_id),
        }

    def at_ns(self, moment: float) -> int:
        """A time of `time.perf_counter` as spans have it."""
        return self.zero_ns + int(moment * 1e9)

    def now_ns(self) -> int:
        """The present, by the same clock."""
        return self.at_ns(time.perf_counter())


class RequestSpan(_Around):
    """The span of one request, a child of the client's, with its time in the queue."""

    __slots__ = ("_protocol",)

    def __init__(self, tracer: trace.Tracer, context: RequestContext) -> None:
        self.tracer = tracer
        self.zero_ns = time.time_ns() - time.perf_counter_ns()
        self._protocol = context.protocol
        parent, kind = _parent(context)
        self.span = tracer.start_span(
            f"infer {context.model}",
            parent,
            kind,
            {
                "oip.model": context.model,
                "oip.version": context.version,
                "oip.protocol": context.protocol,
                "oip.request_id": context.id,
                **_WAYS.get(context.protocol, {}),
            },
            start_time=self.at_ns(context.began),
        )
        self.recorded = self.span.is_recording()
        self.within = trace.set_span_in_context(self.span, parent)

    @property
    def trace_id(self) -> str:
        """The id of the trace as text; empty where there is none."""
        found = self.span.get_span_context()
        return trace.format_trace_id(found.trace_id) if found.is_valid else ""

    def together(self, spans: Sequence[RequestSpan]) -> BatchSpan:
        """The span of one call for the requests of all these, with this one first."""
        return BatchSpan(spans)

    def ended(self, outcome: str, job: Job | None) -> None:
        """End the span; `job` is the request's in its lane, where it came that far."""
        if not self.recorded:
            return
        now_ns = self.now_ns()
        attributes: dict[str, Any] = {"oip.outcome": outcome}
        if job is not None:
            attributes["oip.batch_size"] = job.batch_size
            queued = self.tracer.start_span(
                "queue", self.within, start_time=self.at_ns(job.queued_at)
            )
            queued.end(self.at_ns(job.started_at) if job.started_at else now_ns)
        error = getattr(errors, outcome, None)
        if self._protocol == "grpc":
            status = "OK" if error is None else error.grpc_status
            attributes["rpc.response.status_code"] = status
        elif self._protocol != "replica":
            status = 200 if error is None else error.http_status
            attributes["http.response.status_code"] = status
        if outcome == "Cancelled":  # nobody got a status
            attributes = {"oip.outcome": outcome}
        elif error is not None and error.http_status >= 500:
            attributes["error.type"] = outcome
            self.span.set_status(StatusCode.ERROR)
        self.span.set_attributes(attributes)
        self.span.end(now_ns)


class BatchSpan(_Around):
    """The span of one call for several requests, whose spans and it have links.

    It is a child of the first of them that is recorded, so that whoever samples one of
    the requests has the batch too. What clients sent as baggage ends here: whose should
    go on?
    """

    __slots__ = ()

    def __init__(self, spans: Sequence[RequestSpan]) -> None:
        first = next((each for each in spans if each.recorded), spans[0])
        self.tracer, self.zero_ns = first.tracer, first.zero_ns
        self.span, self.recorded = first.span, first.recorded
        if self.recorded:
            self.span = self.tracer.start_span(
                "batch",
                first.within,
                attributes={"oip.batch_size": len(spans)},
                links=[Link(each.span.get_span_context()) for each in spans],
                start_time=self.now_ns(),
            )
            link = self.span.get_span_context()
            for each in spans:
                if each.span.is_recording():
                    each.span.add_link(link)
        self.within = trace.set_span_in_context(self.span, Context())

    def ended(self) -> None:
        """End the span."""
        if self.recorded:
            self.span.end(self.now_ns())


def _parent(context: RequestContext) -> tuple[Context, SpanKind]:
    """What the span of a request is below, and its kind for that.

    A server that somebody has instrumented has made the request's span already; any
    other span that is current here was so when the server started.
    """
    around = get_current()
    outer = trace.get_current_span(around)
    is_servers = getattr(outer, "kind", SpanKind.SERVER) is SpanKind.SERVER
    if is_servers and outer.get_span_context().is_valid:
        return around, SpanKind.INTERNAL
    return propagate.extract(context.headers, Context()), SpanKind.SERVER


def _failed(span: Span, error: BaseException) -> None:
    """Note the class of what a handler raised; its text may be of the request."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    span.add_event("exception", {"exception.type": kind.removeprefix("builtins.")})
    if isinstance(error, OIPError):
        is_servers = error.http_status >= 500
    else:
        is_servers = not isinstance(error, CLIENTS_FAULT)
    if is_servers:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(StatusCode.ERROR)
