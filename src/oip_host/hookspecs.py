"""The hooks of a host extension, a plugin of the entry-point group `oip.plugins`.

An extension is a module or object with functions marked `@oip_host.hookimpl`. The
host's own entry-point discovery, latency log and commands are extensions on the same
hooks.
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
    """The place of the handler: `package.module:Class`, or a path."""
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
    """A state in the life of a model."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class StateChange:
    """A model that entered a state; `reason` is empty if there is none to give."""

    model: str
    version: str
    state: State
    reason: str = ""
    load_s: float | None = None
    """Seconds that the last load took; None before the first."""


@dataclass(slots=True)
class Inference:
    """An inference that finished, well or not; times in seconds, sizes in elements."""

    model: str
    version: str
    protocol: str
    """`rest`, `grpc` or `v1`."""
    outcome: str
    """`ok`, or the name of the error class in `oip_handler.errors`."""
    queue_s: float
    handler_s: float
    total_s: float
    """From the arrival of the whole request to its encoded answer."""
    elements_in: int
    elements_out: int
    batch_size: int = 1
    """The number of requests that the handler answered in the same call."""
    kserve_model: bool = False
    """Whether a `kserve.Model` answered, for which KServe has metrics of its own."""
    request_id: str = ""
    """The client's `X-Request-Id`, or else one that the host made."""
    trace_id: str = ""
    """The id of the trace, if the request is traced."""


@hookspec
def oip_handlers() -> Iterable[HandlerEntry]:  # type: ignore[empty-body]
    """Offer handlers for selection, without importing them."""


@hookspec
def oip_model_state(change: StateChange) -> None:
    """Observe that a model entered a state; on the event loop, so return at once."""


@hookspec
def oip_inference(inference: Inference) -> None:
    """Observe that an inference finished; on the event loop, so return at once."""


@hookspec
def oip_commands(app: Typer) -> None:
    """Add commands to the command line `oip-host`."""
