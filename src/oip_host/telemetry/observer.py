"""What is told of a model: its changes of state, and its inferences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from oip_host.hookspecs import Inference, StateChange

if TYPE_CHECKING:
    from oip_host.telemetry.tracing import Tracing

__all__ = ["Observer"]


class Observer:
    """Told of a model's changes of state and finished inferences; this one is deaf."""

    inference: Callable[[Inference], None] | None = None
    """None where nobody listens: then no record is made."""
    tracing: Tracing | None = None
    """Makes the spans of requests; None where nobody traces them."""

    def state(self, change: StateChange) -> None:
        """A model entered a state."""
