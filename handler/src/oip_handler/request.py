"""The request that a handler is answering, beside its tensors."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

__all__ = ["Request", "current", "request_id"]


class Request(Protocol):
    """What the host knows of a request in this thread or task."""

    @property
    def id(self) -> str:
        """The client's `X-Request-Id`, or what the host made where there was none."""
        ...


current: ContextVar[Request | None] = ContextVar("oip_host_request", default=None)
"""The request that is being answered in this thread or task."""


def request_id() -> str:
    """Return the id of the request that the handler is answering; empty outside of one.

    In a batch it is the ids of all of its requests, separated by commas.
    """
    request = current.get()
    return request.id if request is not None else ""
