"""Who listens to a model: for its changes of state, its inferences, and its spans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oip_host.hookspecs import Inference, StateChange

if TYPE_CHECKING:
    from oip_host.telemetry.tracing import Tracing

__all__ = ["Observer"]


def _ignore(change: StateChange) -> None:
    """Do nothing with a change that nobody listens for."""


@dataclass
class Observer:
    """The functions that a model calls with its events; by default nobody listens."""

    state: Callable[[StateChange], None] = _ignore
    """Takes each state that the model enters."""
    inference: Callable[[Inference], None] | None = None
    """Takes each finished inference; with None no record is made."""
    tracing: Tracing | None = None
    """Makes the spans of requests; None where they are not traced."""
