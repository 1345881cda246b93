"""The spans of requests by OpenTelemetry: each request's own, and those within it.

Only `otel` imports this, if the host traces: OpenTelemetry is an extra.
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
_ATTRIBUTES: dict[str, dict[str, str]] = {
    "rest": {**_HTTP, "http.route": "/v2/models/{model}/infer"},
    "v1": _HTTP,  # the route is KServe's
    "grpc": {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
    },
}
"""The attributes of a request's protocol, by OpenTelemetry's conventions."""


class Tracing:
    """Starts the spans of requests, which an OpenTelemetry provider exports."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        version = importlib_metadata.version("oip-host")
        self._tracer = provider.get_tracer("oip_host", version)

    def begin(self, context: RequestContext) -> None:
        """Start the span of a request that has found its model, unless it has one."""
        if context.span is None:
            context.span = RequestSpan(self._tracer, context)


class _CallingSpan:
    """A span, recorded or not, in which a handler is called."""

    __slots__ = ("is_recorded", "span", "tracer", "within", "zero_ns")

    tracer: trace.Tracer
    span: Span
    within: Context
    """The context of what runs in the span."""
    is_recorded: bool
    zero_ns: int
    """The time since the epoch at which `time.perf_counter` was 0."""

    def trace_call(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call the handler in a span of its own, and return what it returns."""
        with self._start_handler_span(SpanKind.INTERNAL):
            return call(*args)

    async def trace_call_async(
        self, is_remote: bool, call: Callable[..., Awaitable[Any]], *args: Any
    ) -> Any:
        """Do as `trace_call`; a handler in a replica has another span there."""
        kind = SpanKind.CLIENT if is_remote else SpanKind.INTERNAL
        with self._start_handler_span(kind):
            return await call(*args)

    @contextmanager
    def _start_handler_span(self, kind: SpanKind) -> Iterator[None]:
        span, within = None, self.within
        if self.is_recorded:
            span = self.tracer.start_span(
                "handler", within, kind, start_time=self.now_ns()
            )
            within = trace.set_span_in_context(span, within)
        token = attach(within)
        try:
            yield
        except BaseException as error:
            if span is not None:
                _record_failure(span, error)
            raise
        finally:
            detach(token)
            if span is not None:
                span.end(self.now_ns())

    def inject(self, headers: dict[str, str]) -> None:
        """Add the headers that tell another process of the current span."""
        propagate.inject(headers)

    def ids(self) -> dict[str, str]:
        """Return the ids of the trace and of the innermost span, as in log lines."""
        span = trace.get_current_span().get_span_context()
        if not span.is_valid:
            span = self.span.get_span_context()
        if not span.is_valid:
            return {}
        return {
            "trace_id": trace.format_trace_id(span.trace_id),
            "span_id": trace.format_span_id(span.span_id),
        }

    def at_ns(self, moment: float) -> int:
        """Return a time of `time.perf_counter` in nanoseconds since the epoch."""
        return self.zero_ns + int(moment * 1e9)

    def now_ns(self) -> int:
        """Return the present time by the same clock."""
        return self.at_ns(time.perf_counter())


class RequestSpan(_CallingSpan):
    """The span of one request, a child of the client's, with its time in the queue."""

    __slots__ = ("_protocol",)

    def __init__(self, tracer: trace.Tracer, context: RequestContext) -> None:
        self.tracer = tracer
        self.zero_ns = time.time_ns() - time.perf_counter_ns()
        self._protocol = context.protocol
        parent, kind = _find_parent(context)
        self.span = tracer.start_span(
            f"infer {context.model}",
            parent,
            kind,
            {
                "oip.model": context.model,
                "oip.version": context.version,
                "oip.protocol": context.protocol,
                "oip.request_id": context.id,
                **_ATTRIBUTES.get(context.protocol, {}),
            },
            start_time=self.at_ns(context.began),
        )
        self.is_recorded = self.span.is_recording()
        self.within = trace.set_span_in_context(self.span, parent)

    @property
    def trace_id(self) -> str:
        """The id of the trace as text; empty if there is none."""
        span = self.span.get_span_context()
        return trace.format_trace_id(span.trace_id) if span.is_valid else ""

    def start_batch(self, spans: Sequence[RequestSpan]) -> BatchSpan:
        """Return the span of one call for the requests of all these spans."""
        return BatchSpan(spans)

    def end(self, outcome: str, job: Job | None) -> None:
        """End the span; `job` is the request's in its lane, if it came that far."""
        if not self.is_recorded:
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
        if outcome == "Cancelled":  # no client got a status
            attributes = {"oip.outcome": outcome}
        elif error is not None and error.http_status >= 500:
            attributes["error.type"] = outcome
            self.span.set_status(StatusCode.ERROR)
        self.span.set_attributes(attributes)
        self.span.end(now_ns)


class BatchSpan(_CallingSpan):
    """The span of one call for several requests, linked with each of their spans.

    It is a child of the first of them that is recorded, so that the batch is sampled
    whenever one of its requests is. Baggage of clients ends here, since a call for
    several requests has no one client.
    """

    __slots__ = ()

    def __init__(self, spans: Sequence[RequestSpan]) -> None:
        first = next((each for each in spans if each.is_recorded), spans[0])
        self.tracer, self.zero_ns = first.tracer, first.zero_ns
        self.span, self.is_recorded = first.span, first.is_recorded
        if self.is_recorded:
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

    def end(self) -> None:
        """End the span."""
        if self.is_recorded:
            self.span.end(self.now_ns())


def _find_parent(context: RequestContext) -> tuple[Context, SpanKind]:
    """Return the parent of a request's span, and the kind that the span then has.

    An instrumented server has started a span for the request already; any other span
    that is current here was current when the server started.
    """
    around = get_current()
    outer = trace.get_current_span(around)
    is_servers = getattr(outer, "kind", SpanKind.SERVER) is SpanKind.SERVER
    if is_servers and outer.get_span_context().is_valid:
        return around, SpanKind.INTERNAL
    return propagate.extract(context.headers, Context()), SpanKind.SERVER


def _record_failure(span: Span, error: BaseException) -> None:
    """Record the class of a handler's exception; its text may contain the request's."""
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
