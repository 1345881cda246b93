"""One model: its handler, its state, and a request's way through both.

What KServe itself calls of a model is in `kserve.base_model`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from typing import Any, TypeVar

from oip_handler.boundary import Encode, EncodedResponse, count_elements, translate
from oip_handler.errors import HandlerFault, ModelNotReady, NotSupported, OIPError
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
)
from oip_host.config.model_options import ModelOptions
from oip_host.config.selection import DEFAULT_VERSION
from oip_host.hookspecs import Inference, State, StateChange
from oip_host.kserve.api import kserve
from oip_host.kserve.base_model import BaseModel
from oip_host.kserve.errors import from_kserve
from oip_host.kserve.model_handler import KServeModelHandler
from oip_host.lanes.lane import Job, Lane
from oip_host.models import v1
from oip_host.models.model_lanes import ModelLanes
from oip_host.telemetry.context import RequestContext, current
from oip_host.telemetry.crash_report import Frames
from oip_host.telemetry.observer import Observer
from oip_host.telemetry.statistics import Statistics

__all__ = ["Model", "has_own_probe"]

T = TypeVar("T")

log = logging.getLogger("oip_host")

_READY = State.READY  # a member of an Enum is slow to find
PROBE_S = 1.0
"""Seconds that a handler's own `model_ready` has, before the last answer stands."""
METHODS = ("infer", "model_metadata", "model_load")


_REASONS = {
    State.LOADING: "it is still loading",
    State.READY: "its handler says so",
    State.UNLOADING: "it is being unloaded",
    State.UNAVAILABLE: "it is not loaded",
}


def _as_it_is(_: InferenceRequest, response: InferenceResponse) -> InferenceResponse:
    return response


class Model(BaseModel):
    """A handler as a `kserve.Model`: loads it, guards its state, and runs its calls.

    `model_handler` is a handler, or a class or function without arguments that makes
    one when the model loads. A `kserve.Model` in its place is hosted as it is.
    """

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
        self._timeout_s = self.options.timeout_s
        self.observer = observer or Observer()
        self.load_s: float | None = None
        self.unloaded = False
        """Whether somebody unloaded it, so that nobody counts on it."""
        self.statistics = Statistics()
        self.is_kserve_model = False
        """Whether it is a `kserve.Model`, known from its first load."""
        self._changing = asyncio.Lock()
        """Held by a load or an unload, so that neither meets the other half-way."""
        self._successor: Model | None = None
        self._source = model_handler
        self.model_handler: Any = None
        self._metadata: ModelMetadataResponse | OIPError | None = None
        self._healthy, self._doubt = True, _REASONS[State.READY]
        self._lanes = ModelLanes(name, version, self.options)

    # -- state ----------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and answers; KServe assigns to it too."""
        return self.state is _READY

    @ready.setter
    def ready(self, value: bool) -> None:
        self.state = State.READY if value else State.UNAVAILABLE

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
        """Tell an observer of the present state and, from now on, of what happens."""
        self.observer = observer
        observer.state(
            StateChange(self.name, self.version, self.state, self.reason, self.load_s)
        )

    def not_ready(self) -> ModelNotReady:
        """Why the model cannot answer now, as an error."""
        reason = self.reason or (self._doubt if self.ready else _REASONS[self.state])
        return ModelNotReady(
            f"model '{self.name}' version '{self.version}' is not ready: {reason}"
        )

    async def healthy(self) -> bool:
        """Whether the model is READY and its handler's own `model_ready` agrees.

        The handler is asked in its lane, so never beside an inference; while the lane
        is busy its last answer stands. One that is elsewhere is asked at any time.
        """
        if not self.ready or not has_own_probe(self.model_handler):
            return self.ready
        asked = self.model_handler.model_ready
        try:
            if getattr(self.model_handler, "elsewhere", False):
                asking = asyncio.wait_for(asked(self.name, self.version), PROBE_S)
                self._healthy = bool((await asking).ready)
            elif not (lane := self._lanes.of(asked)).pending:
                around = self._lanes.calls.frames.around(asked)
                job = lane.submit(around, self.name, self.version, timeout_s=PROBE_S)
                self._healthy = bool((await job).ready)
            self._doubt = _REASONS[State.READY]
        except Exception as error:
            self._healthy = False
            if isinstance(error, ModelNotReady):
                self._doubt = str(error)
            else:
                log.exception("model_ready of model '%s' failed", self.name)
        if self._successor is not None:  # while its handler was asked
            return await self._successor.healthy()
        return self._healthy and self.ready

    # -- load and unload ------------------------------------------------------

    async def load_handler(self) -> bool:
        """Make and load the handler in the model's lane; False leaves it UNAVAILABLE.

        The reason is in `reason`, and in the log with its traceback.
        """
        async with self._changing:
            return await self._loaded()

    async def _loaded(self) -> bool:
        self.unloaded = False
        self._enter(State.LOADING)
        started = time.perf_counter()
        try:
            loaded = await self._load()
        except Exception as error:
            known = isinstance(error, OIPError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            if not known or error.__cause__ is not None:
                log.error("model '%s' does not load", self.name, exc_info=error)
        else:
            reason = "" if loaded else "model_load returned False"
        self.load_s = time.perf_counter() - started
        self._enter(State.UNAVAILABLE if reason else State.READY, reason)
        return not reason

    async def _load(self) -> bool:
        if self.model_handler is None:
            handler = self.handled_by or f"handler {_class_of(self._source)}"
            self._lanes.calls.frames = Frames(self.name, self.version, handler)
            self.model_handler = await self._lanes.call(self._made)
            self.is_kserve_model = isinstance(self.model_handler, KServeModelHandler)
            self._lanes.settle(self.model_handler)
        loaded = await self._lanes.call(self.model_handler.model_load, self.name)
        if loaded:
            await self._describe()
            asked = getattr(self.model_handler, "check_metadata", False)
            checks = self.options.check_metadata or bool(asked)
            self._lanes.calls.expected = self.described() if checks else None
        return bool(loaded)

    def _is_factory(self) -> bool:
        return inspect.isclass(self._source) or not (
            hasattr(self._source, METHODS[0]) or isinstance(self._source, kserve.Model)
        )

    def _made(self) -> Any:
        """The handler, constructed where that is left to the host."""
        source = self._source
        if self._is_factory():
            source = source()
        if isinstance(source, kserve.Model):
            return KServeModelHandler(source)
        missing = [
            name for name in METHODS if not callable(getattr(source, name, None))
        ]
        if missing:
            raise HandlerFault(
                f"{type(source).__qualname__} is no handler: it has no "
                f"{', '.join(missing)}"
            )
        return source

    async def _describe(self) -> None:
        """Ask for the metadata once, so that later answers never wait for the lane."""
        try:
            self._metadata = await self._lanes.call(
                self.model_handler.model_metadata, self.name, self.version
            )
        except Exception as error:
            log.warning(
                "model_metadata of model '%s' failed", self.name, exc_info=error
            )
            self._metadata = self._translate(error)

    def fresh(self) -> Model | None:
        """The same model, not loaded; None where a program made its only handler."""
        if not self._is_factory():
            return None
        fresh = type(self)(
            self.name,
            self._source,
            version=self.version,
            optional=self.optional,
            options=self.options,
        )
        fresh.handled_by = self.handled_by
        fresh.statistics = self.statistics
        fresh.is_kserve_model = self.is_kserve_model
        return fresh

    def reconfigure(self, options: ModelOptions) -> None:
        """Have other options hold, those that may change while the model runs."""
        self.options = options
        self._timeout_s = options.timeout_s
        self._lanes.reconfigure(options)

    def retire(self, successor: Model) -> Observer:
        """Tell nobody of anything from now on: another one takes the model's place.

        Who found this one before, and asks it after, is answered by the other.
        """
        self._successor = successor
        successor.reconfigure(self.options)  # they may have changed as it loaded
        observer, self.observer = self.observer, Observer()
        return observer

    async def settled(self) -> None:
        """Wait for a load or an unload that is under way."""
        async with self._changing:
            pass

    async def unload_handler(self) -> None:
        """Refuse new requests, answer those in flight, and let the handler go."""
        async with self._changing:
            await self._unloaded()

    async def _unloaded(self) -> None:
        was_ready = self.ready
        self.unloaded = True
        self._enter(State.UNLOADING)
        for lane in self._lanes.each():
            await lane.drained()
        unload = getattr(self.model_handler, "model_unload", None)
        if was_ready and unload is not None:
            try:
                await self._lanes.call(unload, self.name)
            except Exception as error:
                log.error("model_unload of '%s' failed", self.name, exc_info=error)
        self.let_go()
        self._enter(State.UNAVAILABLE, "unloaded")

    def let_go(self) -> None:
        """End the lanes, and forget a handler that the host made."""
        self._lanes.close()
        if self._is_factory():
            self.model_handler = self._metadata = None
            self._lanes.forget()

    def cut_off(self, error: OIPError) -> int:
        """Fail every request that is not answered yet; tells how many there were."""
        return sum(lane.cut_off(error) for lane in self._lanes.each())

    def under_way(self) -> tuple[int, int]:
        """How many requests were accepted and not answered yet, and wait of those."""
        if self.state is State.LOADING:
            return 0, 0  # what runs is the load
        lane = self._lanes.of_requests
        return lane.pending, lane.waiting

    # -- requests -------------------------------------------------------------

    async def metadata(self) -> ModelMetadataResponse:
        """The handler's description of the model.

        Raises ModelNotReady while the model is not loaded, and what `model_metadata`
        raised when it was asked.
        """
        if not self.ready:
            raise self.not_ready()
        if isinstance(self._metadata, OIPError):
            raise self._metadata
        assert self._metadata is not None  # asked for when the model was loaded
        return self._metadata

    async def infer(
        self,
        request: InferenceRequest,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> InferenceResponse:
        """The model's answer; `timeout_s` is the client's own deadline, in seconds.

        Its outputs are those that the request names, in that order. Raises OIPError,
        and nothing else.
        """
        return await self.encoded(request, _as_it_is, context, timeout_s)

    async def encoded(
        self,
        request: InferenceRequest,
        encode: Encode[T],
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """What `encode` makes of the model's answer to the request; see `infer`.

        It is called where the handler ran and before its next call, so that a handler
        may use the memory of its outputs again.
        """
        if self._successor is not None:
            return await self._successor.encoded(request, encode, context, timeout_s)
        context = context or RequestContext()
        if self.state is not _READY:
            raise self.not_ready()
        limit = self._timeout_s
        if timeout_s is not None and timeout_s < limit:
            limit = timeout_s
        lanes = self._lanes
        result: EncodedResponse[T] = await self._observed(
            context, lanes.of_requests, limit, lanes.infer, request, encode, context
        )
        return result.content

    async def _observed(
        self, context: RequestContext, lane: Lane, limit: float, call: Any, *args: Any
    ) -> Any:
        """The result of a call in a lane, counted and told; raises OIPError only."""
        self._reached(context)
        job: Job | None = None
        result: Any = None
        outcome = "Cancelled"
        try:
            job = lane.submit(call, *args, timeout_s=limit)
            result = await job
            outcome = "ok"
            return result
        except Exception as error:
            failure = self._translate(error)
            outcome = failure.kind
            # its frames have the job, and the job has it
            error.__traceback__ = error.__cause__ = error.__context__ = None
            try:
                raise failure from None
            finally:
                del failure  # so has this frame: it would wait for the collector
        finally:
            self._count(context, outcome, job, args[0], result)
            del job

    def _translate(self, error: Exception) -> OIPError:
        """What a client is told of an exception; the log has what it is not told."""
        known = from_kserve(error)
        failure = translate(known, self.name)
        if failure.http_status == 500 and not isinstance(known, OIPError):
            log.error("model '%s' failed", self.name, exc_info=error)
        return failure

    def _reached(self, context: RequestContext) -> None:
        """A request has found its model; its span, where it has one, begins."""
        context.model, context.version = self.name, self.version
        if self.observer.tracing is not None:
            self.observer.tracing.begin(context)

    def refused(self, context: RequestContext, error: OIPError) -> None:
        """Count a request that failed, unless it was counted in its lane."""
        if context.statistics is None:
            self._reached(context)
            self._count(context, error.kind, None, None, None)

    def _count(
        self,
        context: RequestContext,
        outcome: str,
        job: Job | None,
        request: Any,
        result: Any,
    ) -> None:
        """Count a finished inference, and tell the observer of it."""
        queue_s = handler_s = 0.0
        batch_size, leads = 1, True
        if job is not None:
            queue_s, handler_s = job.times()
            batch_size, leads = job.batch_size, job.leads
        total_s = time.perf_counter() - context.began
        protocol = context.protocol
        context.statistics = statistics = self.statistics
        statistics.add(protocol, outcome, queue_s, handler_s, batch_size, leads)
        statistics.bytes_in += context.bytes_in
        if outcome == "ok":
            statistics.total.add(total_s)
        trace_id = ""
        if context.span is not None:
            context.span.ended(outcome, job)
            trace_id = context.span.trace_id
        if self.observer.inference is None:
            return
        self.observer.inference(
            Inference(
                self.name, self.version, protocol, outcome,
                queue_s, handler_s, total_s,
                count_elements(getattr(request, "inputs", ())),
                count_elements(getattr(result, "outputs", ())),
                batch_size, self.is_kserve_model, context.id, trace_id,
            )
        )  # fmt: skip

    async def predict_v1(
        self, body: Any, headers: dict[str, str], verb: Any
    ) -> tuple[Any, dict[str, str]]:
        """The answer to a V1 request and its headers.

        A `kserve.Model` takes the body as it is; a handler takes
        `{"instances": [...]}` as that input, and answers `{"predictions": [...]}`.
        """
        context = current.get() or RequestContext("v1", headers)
        try:
            return await self._answer_v1(context, body, headers, verb)
        except OIPError as error:
            self.refused(context, error)
            raise

    async def _answer_v1(
        self, context: RequestContext, body: Any, headers: dict[str, str], verb: Any
    ) -> tuple[Any, dict[str, str]]:
        if self._successor is not None:
            return await self._successor._answer_v1(context, body, headers, verb)
        if self.state is not _READY:
            raise self.not_ready()
        predict = kserve.model.InferenceVerb.PREDICT
        as_it_is = getattr(self.model_handler, "predict_v1", None)
        if as_it_is is not None:
            lanes = self._lanes
            answer: tuple[Any, dict[str, str]] = await self._observed(
                context, lanes.of(as_it_is), self._timeout_s, lanes.calls.passed_on,
                context, as_it_is, v1.body(body, headers), headers, verb or predict,
            )  # fmt: skip
            return answer
        if verb not in (None, predict):
            raise NotSupported(f"model '{self.name}' does not explain")
        request = v1.request(body, await self.metadata())
        return await self.encoded(request, v1.response, context), {}

    def described(self) -> ModelMetadataResponse | None:
        """The metadata, where the model is loaded and has them."""
        known = isinstance(self._metadata, ModelMetadataResponse)
        return self._metadata if known else None  # type: ignore[return-value]


def has_own_probe(handler: Any) -> bool:
    """Whether a handler has a `model_ready` that is not the contract's own.

    Upstream's class counts as the contract too.
    """
    method = getattr(handler, "model_ready", None)
    name = getattr(method, "__qualname__", "")
    return method is not None and name != "ModelHandler.model_ready"


def _class_of(source: Any) -> str:
    """The class of a handler, or of what makes one, by its full name."""
    known = source if hasattr(source, "__qualname__") else type(source)
    return f"{known.__module__}.{known.__qualname__}"
