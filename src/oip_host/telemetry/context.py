"""A request apart from its tensors: its id, its protocol, and what is counted."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from random import getrandbits
from typing import TYPE_CHECKING, Any, cast

from oip_handler import request

if TYPE_CHECKING:
    from oip_host.telemetry.statistics import Statistics

__all__ = ["CONTEXT_HEADERS", "REQUEST_ID", "RequestContext", "current"]

REQUEST_ID = "x-request-id"
"""The header of a request and its response, by REST and gRPC, with the request's id."""
CONTEXT_HEADERS = (REQUEST_ID, "traceparent", "tracestate", "baggage")
"""The headers that a context keeps of a request: its id, and W3C's for tracing."""

_USABLE = re.compile(r"[!-~]{1,128}")
"""An id that is safe in a log line and a header: visible ASCII, and not long."""


class RequestContext:
    """The data that accompany a request from the edge to the handler.

    `headers` are those of `CONTEXT_HEADERS` that the client sent.
    """

    __slots__ = (
        "began", "bytes_in", "headers", "id", "model", "protocol", "span", "statistics",
        "version",
    )  # fmt: skip

    def __init__(
        self, protocol: str = "rest", headers: Mapping[str, str] | None = None
    ) -> None:
        self.protocol = protocol
        """`rest`, `grpc` or `v1`; `replica` within one."""
        self.headers = headers or {}
        given = self.headers.get(REQUEST_ID)
        self.id = given if given and _USABLE.fullmatch(given) else _make_id()
        self.began = time.perf_counter()
        """When the whole request had arrived, by `time.perf_counter`."""
        self.bytes_in = 0
        self.model = self.version = ""
        """The model whose handler has the request, once one has it."""
        self.statistics: Statistics | None = None
        """The statistics in which the request was counted; None until then."""
        self.span: Any = None
        """The span of the request, if it is traced."""

    def start(self, size: int) -> None:
        """Begin the request's time, with a body of `size` bytes that has arrived."""
        self.bytes_in = size
        self.began = time.perf_counter()

    def count_response(self, size: int) -> None:
        """Count the bytes of the response."""
        if self.statistics is not None:
            self.statistics.bytes_out += size

    @classmethod
    def merge(cls, contexts: list[RequestContext]) -> RequestContext:
        """Return the context of one call for several requests, with all their ids."""
        if len(contexts) == 1:
            return contexts[0]
        first = contexts[0]
        batch = cls(first.protocol, {REQUEST_ID: "-"})
        batch.id = ",".join([context.id for context in contexts])
        batch.model, batch.version = first.model, first.version
        return batch


current = cast("ContextVar[RequestContext | None]", request.current)
"""The context of the request that this thread or task answers; the contract's own."""


def _make_id() -> str:
    """Return an id for a request without one: unique, cheap, and no secret."""
    return f"{getrandbits(96):024x}"
