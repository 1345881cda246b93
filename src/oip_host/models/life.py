"""The life of one model: how it loads, how it is, how it unloads."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any, TypeVar

from oip_handler.errors import DeadlineExceeded, ModelNotReady, OIPError
from oip_handler.messages import ModelMetadataResponse
from oip_handler.traits import HandlerTraits
from oip_host.config.model_options import ModelOptions
from oip_host.config.selection import DEFAULT_VERSION
from oip_host.hookspecs import State, StateChange
from oip_host.kserve.base_model import BaseModel
from oip_host.kserve.model_handler import KServeModelHandler
from oip_host.models.construction import is_factory, make_handler, name_source
from oip_host.models.execution import Execution
from oip_host.models.handler_faults import translate_fault
from oip_host.telemetry.crash_report import Frames
from oip_host.telemetry.observer import Observer
from oip_host.telemetry.statistics import Statistics

__all__ = ["ModelLife"]

L = TypeVar("L", bound="ModelLife")

log = logging.getLogger("oip_host")

PROBE_S = 1.0
"""Seconds that a handler's own `model_ready` has, before the last answer stands."""
_PROBE_FAILED = "its handler says so"
_REASONS = {
    State.LOADING: "it is still loading",
    State.READY: _PROBE_FAILED,
    State.UNLOADING: "it is being unloaded",
    State.UNAVAILABLE: "it is not loaded",
}


class ModelLife(BaseModel):
    """A handler as a `kserve.Model`, from its load to the end of its unload."""

    def __init__(
        self,
        name: str,
        model_handler: Any,
        *,
        version: str = DEFAULT_VERSION,
        optional: bool = False,
        options: ModelOptions | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.state, self.reason = State.UNAVAILABLE, ""
        super().__init__(name)
        self.version = version
        self.optional = optional
        self.handled_by = ""
        """The handler as a crash report names it; empty: by its class."""
        self.options = options or ModelOptions()
        self.observer = observer or Observer()
        self.load_s: float | None = None
        self.unloaded = False
        """Whether somebody unloaded it, so that the server is ready without it."""
        self.statistics = Statistics()
        self.is_kserve_model = False
        """Whether it is a `kserve.Model`, known from its first load."""
        self.model_handler: Any = None
        self._source = model_handler
        self._changing = asyncio.Lock()
        """Held by a load or an unload, so that neither meets the other half-way."""
        self._successor: Any = None
        """The model that answers in this one's place, once it has retired."""
        self._metadata: ModelMetadataResponse | OIPError | None = None
        self._doubt = ""
        """Why the handler's own probe says that it cannot answer; empty: it can."""
        self._execution = Execution(name, version, self.options)

    @property
    def traits(self) -> HandlerTraits:
        """The handler's traits, known from its load."""
        return self._execution.traits

    # -- state ----------------------------------------------------------------

    def _enter(self, state: State, reason: str = "") -> None:
        self.state, self.reason = state, reason
        level = logging.ERROR if reason and reason != "unloaded" else logging.INFO
        log.log(
            level, "model '%s' version '%s' is %s%s",
            self.name, self.version, state.value, f": {reason}" if reason else "",
            extra={"model": self.name, "version": self.version, "state": state.value},
        )  # fmt: skip
        self.observe(self.observer)

    def observe(self, observer: Observer) -> None:
        """Report the present state, and all further events, to an observer."""
        self.observer = observer
        observer.state(
            StateChange(self.name, self.version, self.state, self.reason, self.load_s)
        )

    def not_ready(self) -> ModelNotReady:
        """Return the error that says why the model cannot answer now."""
        doubt = self._doubt if self.ready else ""
        reason = self.reason or doubt or _REASONS[self.state]
        return ModelNotReady(
            f"model '{self.name}' version '{self.version}' is not ready: {reason}"
        )

    async def healthy(self) -> bool:
        """Return whether the model is READY and its handler's own probe agrees."""
        if self.ready and self.traits.has_own_probe:
            await self._probe()
        if self._successor is not None:  # perhaps since the handler was called
            return bool(await self._successor.healthy())
        return self.ready and not self._doubt

    async def _probe(self) -> None:
        """Call the handler's `model_ready`, and keep what it says.

        It is called in its lane, so never beside an inference; while the lane is busy
        its last answer stands.
        """
        try:
            is_ready = await self._execution.probe(
                self.name, self.version, timeout_s=PROBE_S
            )
        except ModelNotReady as error:
            self._doubt = str(error) or _PROBE_FAILED
        except (DeadlineExceeded, asyncio.TimeoutError) as error:
            self._doubt = _PROBE_FAILED
            log.error("model_ready of model '%s' timed out: %s", self.name, error)
        except Exception:  # which the log has
            self._doubt = _PROBE_FAILED
        else:
            if is_ready is not None:
                self._doubt = "" if is_ready else _PROBE_FAILED

    # -- load -----------------------------------------------------------------

    async def load_handler(self) -> bool:
        """Make and load the handler in the model's lane; False leaves it UNAVAILABLE.

        The reason is in `reason`, and in the log with its traceback.
        """
        async with self._changing:
            self.unloaded = False
            self._enter(State.LOADING)
            started = time.perf_counter()
            reason = await self._try_to_load()
            self.load_s = time.perf_counter() - started
            self._enter(State.UNAVAILABLE if reason else State.READY, reason)
            return not reason

    async def _try_to_load(self) -> str:
        """Load the handler; returns why it failed to load, or nothing."""
        try:
            loaded = await self._load()
        except Exception as error:
            is_known = isinstance(error, OIPError)
            return str(error) if is_known else f"{type(error).__name__}: {error}"
        return "" if loaded else "model_load returned False"

    async def _load(self) -> bool:
        execution = self._execution
        if self.model_handler is None:
            handler = self.handled_by or f"handler {name_source(self._source)}"
            execution.calls.frames = Frames(self.name, self.version, handler)
            self.model_handler = await execution.make(make_handler, self._source)
            self.is_kserve_model = isinstance(self.model_handler, KServeModelHandler)
            execution.adopt(self.model_handler)
        loaded = await execution.call("model_load", self.name)
        if loaded:
            execution.read_traits()
            await self._describe()
            checks = self.options.check_metadata or self.traits.checks_metadata
            execution.calls.expected = self.get_metadata() if checks else None
        return bool(loaded)

    async def _describe(self) -> None:
        """Ask for the metadata once, so that later answers never wait for the lane."""
        try:
            self._metadata = await self._execution.call(
                "model_metadata", self.name, self.version
            )
        except Exception as error:  # which the log has
            self._metadata = translate_fault(error, self.name)

    async def metadata(self) -> ModelMetadataResponse:
        """Return the handler's description of the model.

        Raises ModelNotReady while the model is not loaded, and what `model_metadata`
        raised when it was called.
        """
        if not self.ready:
            raise self.not_ready()
        if isinstance(self._metadata, OIPError):
            raise self._metadata.with_traceback(None)  # it is raised again and again
        assert self._metadata is not None  # asked for when the model was loaded
        return self._metadata

    def get_metadata(self) -> ModelMetadataResponse | None:
        """Return the metadata, where the model is loaded and has them."""
        metadata = self._metadata
        return None if isinstance(metadata, OIPError) else metadata

    # -- reload and unload ----------------------------------------------------

    def copy_unloaded(self: L) -> L | None:
        """Return the same model, not loaded; None where a program made its handler."""
        if not is_factory(self._source):
            return None
        copy = type(self)(
            self.name,
            self._source,
            version=self.version,
            optional=self.optional,
            options=self.options,
        )
        copy.handled_by = self.handled_by
        copy.statistics = self.statistics
        copy.is_kserve_model = self.is_kserve_model
        return copy

    def reconfigure(self, options: ModelOptions) -> None:
        """Apply those options that may change while the model runs."""
        self.options = options
        self._execution.set_options(options)

    def retire(self, successor: ModelLife) -> Observer:
        """Report nothing from now on: another one takes the model's place.

        Callers that found this one before get the other's answers.
        """
        self._successor = successor
        successor.reconfigure(self.options)  # they may have changed as it loaded
        observer, self.observer = self.observer, Observer()
        return observer

    async def wait_until_settled(self) -> None:
        """Wait for the end of a load or an unload that goes on."""
        async with self._changing:
            pass

    async def unload_handler(self) -> None:
        """Refuse new requests, answer those in flight, and release the handler."""
        async with self._changing:
            was_ready = self.ready
            self.unloaded = True
            self._enter(State.UNLOADING)
            for lane in self._execution.lanes:
                await lane.wait_until_empty()
            if was_ready and "model_unload" in self.traits.methods:
                with suppress(Exception):  # which the log has
                    await self._execution.call("model_unload", self.name)
            self.release()
            self._enter(State.UNAVAILABLE, "unloaded")

    def release(self) -> None:
        """End the lanes, and drop a handler that the host made."""
        self._execution.close()
        if is_factory(self._source):
            self.model_handler = self._metadata = None
            self._execution.release()

    def fail_pending(self, error: OIPError) -> int:
        """Fail every request that is not answered yet; returns how many."""
        return sum(lane.fail_pending(error) for lane in self._execution.lanes)

    def count_pending(self) -> tuple[int, int]:
        """Return how many requests are accepted and not answered, and wait of those."""
        if self.state is State.LOADING:
            return 0, 0  # what runs is the load
        lane = self._execution.requests
        return lane.pending, lane.waiting
