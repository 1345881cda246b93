"""What a host extension can do: the hooks of the entry-point group `oip.plugins`.

An extension is a module or object with functions marked `@oip_host.hookimpl`. The
host's own entry-point discovery, metrics and commands are extensions on the same hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["HandlerEntry", "Inference", "State", "StateChange", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("oip_host")
hookimpl = pluggy.HookimplMarker("oip_host")


@dataclass(frozen=True)
class HandlerEntry:
    """A handler that can be selected, before anything of it is imported."""

    name: str
    target: str
    """Where the handler is: `package.module:Class`, or a path."""
    load: Callable[[], Any]
    """Imports and returns the handler class, factory or `kserve.Model` subclass."""
    distribution: str | None = None
    version: str | None = None

    @property
    def origin(self) -> str:
        """The distribution and its version, as messages name them."""
        if self.distribution is None:
            return "no distribution"
        return f"{self.distribution} {self.version}"


class State(str, Enum):
    """Where a model stands in its life."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class StateChange:
    """A model that entered a state; `reason` is empty where there is none to give."""

    model: str
    version: str
    state: State
    reason: str = ""
    load_s: float | None = None
    """Seconds that the load took, once there was one."""


@dataclass(slots=True)
class Inference:
    """An inference that finished, well or not. Times in seconds, sizes in elements."""

    model: str
    version: str
    protocol: str
    """`rest`, `grpc` or `v1`."""
    outcome: str
    """`ok`, or the name of the error class in `oip_handler.errors`."""
    queue_s: float
    handler_s: float
    total_s: float
    """From the moment when the whole request was there to its encoded answer."""
    elements_in: int
    elements_out: int
    batch_size: int = 1
    """How many requests the handler answered in the same call."""
    kserve_model: bool = False
    """Whether a `kserve.Model` answered, of which KServe takes metrics of its own."""
    request_id: str = ""
    """The client's `X-Request-Id`, or what the host made where there was none."""
    trace_id: str = ""
    """OpenTelemetry's, where the request is traced."""


@hookspec
def oip_handlers() -> Iterable[HandlerEntry]:  # type: ignore[empty-body]
    """Offer handlers for selection, without importing them."""


@hookspec
def oip_model_state(change: StateChange) -> None:
    """A model entered a state. Called on the event loop: return at once."""


@hookspec
def oip_inference(inference: Inference) -> None:
    """An inference finished. Called on the event loop: return at once."""


@hookspec
def oip_commands(app: Typer) -> None:
    """Add commands to the command line `oip-host`."""
