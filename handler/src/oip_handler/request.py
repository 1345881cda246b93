"""The request that a handler is answering, apart from its tensors."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

__all__ = ["Request", "current", "request_id"]


class Request(Protocol):
    """A request as the host knows it in this thread or task."""

    @property
    def id(self) -> str:
        """The client's `X-Request-Id`, or the host's own id if there was none."""
        ...


current: ContextVar[Request | None] = ContextVar("oip_host_request", default=None)
"""The request that this thread or task is answering."""


def request_id() -> str:
    """Return the id of the request that the handler is answering, or an empty string.

    For a batch, it is the ids of all its requests, separated by commas.
    """
    request = current.get()
    return request.id if request is not None else ""
