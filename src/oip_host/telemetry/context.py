"""A request beside its tensors: its id, how it came, and what is counted of it."""

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

__all__ = ["CARRIED", "REQUEST_ID", "RequestContext", "current"]

REQUEST_ID = "x-request-id"
"""The header, by REST and gRPC, that brings a request's id and takes it back."""
CARRIED = (REQUEST_ID, "traceparent", "tracestate", "baggage")
"""The headers that a context takes from a request: its id, and W3C's of tracing."""

_USABLE = re.compile(r"[!-~]{1,128}")
"""An id that may stand in a log line and in a header: visible ASCII, and not long."""


class RequestContext:
    """Goes with a request from the edge to the handler.

    `headers` are those of `CARRIED` that the client sent: the id that it gave, and what
    tracing has to know of its span.
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
        self.id = given if given and _USABLE.fullmatch(given) else _made_id()
        self.began = time.perf_counter()
        """When the whole request was there."""
        self.bytes_in = 0
        self.model = self.version = ""
        """Whose handler has the request, once one has it."""
        self.statistics: Statistics | None = None
        """Where the request was counted; None as long as it was not."""
        self.span: Any = None
        """What tracing keeps of it."""

    def received(self, size: int) -> None:
        """The body is there, of so many bytes: the request's time begins."""
        self.bytes_in = size
        self.began = time.perf_counter()

    def answered(self, size: int) -> None:
        """Count the bytes of the answer."""
        if self.statistics is not None:
            self.statistics.bytes_out += size

    @classmethod
    def of_batch(cls, contexts: list[RequestContext]) -> RequestContext:
        """That of one call for several requests; its id has all of theirs."""
        if len(contexts) == 1:
            return contexts[0]
        first = contexts[0]
        batch = cls(first.protocol, {REQUEST_ID: "-"})
        batch.id = ",".join([context.id for context in contexts])
        batch.model, batch.version = first.model, first.version
        return batch


current = cast("ContextVar[RequestContext | None]", request.current)
"""The request that this thread or task is answering; the variable is the contract's."""


def _made_id() -> str:
    """An id for a request that brings none: unique, cheap, and no secret."""
    return f"{getrandbits(96):024x}"
