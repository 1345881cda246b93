"""Where the handler of a model runs, and what runs there.

Requests pass from `Execution.requests`, a lane, to the methods of `HandlerCalls`, which
check a request, call the handler, and check and encode its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from oip_handler.boundary import (
    Encode,
    EncodedResponse,
    check_inputs,
    check_request,
    check_response,
)
from oip_handler.errors import ModelNotReady, OIPError
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
)
from oip_handler.traits import HandlerTraits, read_traits
from oip_host.config.model_options import ModelOptions
from oip_host.lanes.lane import Lane, LoopLane, ThreadLane, contain
from oip_host.models.batching import Batcher
from oip_host.models.handler_faults import log_fault, translate_fault
from oip_host.models.merging import BatchItem, Outcome, deal_out, prepare
from oip_host.telemetry.context import RequestContext, current
from oip_host.telemetry.crash_report import Frames

__all__ = ["Execution", "HandlerCalls"]

T = TypeVar("T")

ASYNC_CONCURRENCY = 100
"""Calls at once of an async handler that does not say how many it takes."""


class HandlerCalls:
    """The calls that the lanes of one model run; `handler` is set once it is made.

    A plain `infer` is called by `answer` and `answer_batch`, in a thread of the lane;
    an async one by `answer_async` and `answer_batch_async`, on its event loop.
    """

    def __init__(self, name: str, version: str) -> None:
        self._name = name
        self._version = version
        self.handler: Any = None
        self.traits = HandlerTraits()
        self.frames = Frames(name, version, "handler")
        """The handler is called through them."""
        self.expected: ModelMetadataResponse | None = None
        """The metadata that inputs are checked against, where that is wanted."""

    def answer(
        self, request: InferenceRequest, encode: Encode[T], context: RequestContext
    ) -> EncodedResponse[T]:
        """Return the encoded answer to a request."""
        current.set(context)
        try:
            response = self._infer(request, context)
            return EncodedResponse(response.outputs, encode(request, response))
        finally:
            current.set(None)  # the thread goes on with other models

    async def answer_async(
        self, request: InferenceRequest, encode: Encode[T], context: RequestContext
    ) -> EncodedResponse[T]:
        """Do as `answer`."""
        current.set(context)
        response = await self._infer_async(request, context)
        return EncodedResponse(response.outputs, encode(request, response))

    def answer_batch(self, items: list[BatchItem]) -> list[Outcome]:
        """Return the outcome of each request, by one call of the handler."""
        request, batch = prepare(items, self._check)
        with _batch_context(items) as context:
            if isinstance(request, Exception):
                return deal_out(request, batch)
            try:
                # several that fail run alone, and are logged then
                answer = self._infer(request, context, logs=batch.is_single)
            except BaseException as error:
                return deal_out(contain(error), batch)
            return deal_out(answer, batch)

    async def answer_batch_async(self, items: list[BatchItem]) -> list[Outcome]:
        """Do as `answer_batch`."""
        request, batch = prepare(items, self._check)
        with _batch_context(items) as context:
            if isinstance(request, Exception):
                return deal_out(request, batch)
            try:
                answer = await self._infer_async(request, context, logs=batch.is_single)
            except BaseException as error:
                return deal_out(contain(error), batch)
            return deal_out(answer, batch)

    async def predict_v1(self, context: RequestContext, *args: Any) -> Any:
        """Return the answer of the handler's own method for V1."""
        current.set(context)
        try:
            return await self._async_caller(context)(self.handler.predict_v1, *args)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            raise self._fail("predict_v1", error) from None

    def call(self, method: str, context: RequestContext | None, *args: Any) -> Any:
        """Return what another method answers; raises what it raises, and logs it."""
        current.set(context)
        try:
            return self.frames.call(getattr(self.handler, method), *args)
        except BaseException as error:
            self.log(method, error)
            raise
        finally:
            current.set(None)

    async def call_async(
        self, method: str, context: RequestContext | None, *args: Any
    ) -> Any:
        """Do as `call`."""
        current.set(context)
        try:
            return await self.frames.call_async(getattr(self.handler, method), *args)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.log(method, error)
            raise

    def make(self, make: Callable[[Any], T], source: Any) -> T:
        """Return the handler that `make` makes; logs what its constructor raises."""
        try:
            made: T = self.frames.call(make, source)
        except BaseException as error:
            if not isinstance(error, OIPError) or error.__cause__ is not None:
                self.log("constructor", error)  # else it is the host's own
            raise
        return made

    def log(self, method: str, error: BaseException) -> None:
        """Log what a method raised, unless that is its answer or was logged elsewhere.

        A handler says by ModelNotReady why its probe fails.
        """
        is_answer = method == "model_ready" and isinstance(error, ModelNotReady)
        was_logged = self.traits.runs_elsewhere and isinstance(error, OIPError)
        if not is_answer and not was_logged:
            log_fault(error, method, self._name, self._version)

    def _fail(self, method: str, error: BaseException, logs: bool = True) -> OIPError:
        """Return the client's error for what a method raised, which the log has."""
        if logs:
            self.log(method, error)
        return translate_fault(error, self._name)

    def _infer(
        self, request: InferenceRequest, context: RequestContext, logs: bool = True
    ) -> InferenceResponse:
        """Call the handler; with `logs`, what it raises is logged."""
        self._check(request)
        call = self.frames.call
        if context.span is not None:
            call = partial(context.span.trace_call, call)
        try:
            answer = call(self.handler.infer, request, self._name, self._version)
        except BaseException as error:
            raise self._fail("infer", error, logs) from None
        return check_response(request, answer, self._name, self._version)

    async def _infer_async(
        self, request: InferenceRequest, context: RequestContext, logs: bool = True
    ) -> InferenceResponse:
        """Do as `_infer`."""
        self._check(request)
        call = self._async_caller(context)
        try:
            answer = await call(self.handler.infer, request, self._name, self._version)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            raise self._fail("infer", error, logs) from None
        return check_response(request, answer, self._name, self._version)

    def _async_caller(self, context: RequestContext) -> Callable[..., Any]:
        """Return what calls a method in its frame, and in a span if there is one."""
        call = self.frames.call_async
        if context.span is None:
            return call
        return partial(context.span.trace_call_async, self.traits.runs_elsewhere, call)

    def _check(self, request: InferenceRequest) -> None:
        check_request(request)
        if self.expected is not None:
            check_inputs(request, self.expected)


@contextmanager
def _batch_context(items: list[BatchItem]) -> Iterator[RequestContext]:
    """Make one context for a batch, with one span for those of its requests."""
    contexts = [context for *_, context in items]
    context = RequestContext.merge(contexts)
    traced = [each.span for each in contexts if each.span is not None]
    span = traced[0].start_batch(traced) if traced and len(contexts) > 1 else None
    if span is not None:
        context.span = span
    current.set(context)
    try:
        yield context
    finally:
        current.set(None)
        if span is not None:
            span.end()


class Execution:
    """The lanes of a model, and its handler's calls in them.

    Until `adopt` knows the handler there is one lane, for what makes the handler.
    """

    def __init__(self, name: str, version: str, options: ModelOptions) -> None:
        self._name = name
        self._options = options
        self._plain: Lane = ThreadLane(name, 1, options.max_queue)
        self._loop: LoopLane | None = None
        self.calls = HandlerCalls(name, version)
        self.requests: Lane = self._plain
        """Where requests wait: the handler's own lane, or batches in front of it."""
        self.answer: Callable[..., Any] = self.calls.answer
        """The call that this lane runs for a request."""

    @property
    def traits(self) -> HandlerTraits:
        """The handler's traits."""
        return self.calls.traits

    @property
    def lanes(self) -> list[Lane]:
        """Every lane, the one where requests wait first."""
        lanes = (self.requests, self._plain, self._loop)
        return [lane for lane in dict.fromkeys(lanes) if lane is not None]

    def adopt(self, handler: Any) -> None:
        """Choose where the handler's methods run, and how many at a time."""
        self.calls.handler = handler
        self.read_traits()
        traits, options = self.traits, self._options
        limit = traits.max_concurrency
        if not traits.runs_elsewhere:  # else the option holds there
            limit = options.max_concurrency or limit
        self._plain.max_concurrency = limit or 1
        if traits.async_methods:
            self._loop = LoopLane(
                self._name, limit or ASYNC_CONCURRENCY, options.max_queue
            )
        self._choose_requests_lane()

    def _choose_requests_lane(self) -> None:
        calls, options = self.calls, self._options
        is_async = "infer" in self.traits.async_methods
        self.requests = self.lane_for("infer")
        self.answer = calls.answer_async if is_async else calls.answer
        if options.max_batch_size > 1:
            self.requests = Batcher(
                self.requests,
                calls.answer_batch_async if is_async else calls.answer_batch,
                options.max_batch_size,
                options.max_batch_delay_ms / 1000,
            )

    def read_traits(self) -> None:
        """Read the handler's traits; a loaded one may know more of itself."""
        self.calls.traits = read_traits(self.calls.handler)

    def lane_for(self, method: str) -> Lane:
        """Return the lane for a method of the handler."""
        if method in self.traits.async_methods and self._loop is not None:
            return self._loop
        return self._plain

    async def make(self, make: Callable[[Any], T], source: Any) -> T:
        """Return what a function makes, in the lane that is there first."""
        made: T = await self._plain.submit(self.calls.make, make, source)
        return made

    async def call(
        self, method: str, *args: Any, timeout_s: float | None = None
    ) -> Any:
        """Return what a method of the handler answers, in its lane.

        Raises what the method raises, which the log has then.
        """
        is_async = method in self.traits.async_methods
        call = self.calls.call_async if is_async else self.calls.call
        return await self.lane_for(method).submit(
            call, method, current.get(), *args, timeout_s=timeout_s
        )

    async def probe(self, *args: Any, timeout_s: float) -> bool | None:
        """Return what the handler's `model_ready` says; None while its lane is busy.

        A handler that runs elsewhere is asked beside its other calls.
        """
        if self.traits.runs_elsewhere:
            asking = self.calls.call_async("model_ready", current.get(), *args)
            answer = await asyncio.wait_for(asking, timeout_s)
        elif self.lane_for("model_ready").pending:
            return None
        else:
            answer = await self.call("model_ready", *args, timeout_s=timeout_s)
        return bool(answer.ready)

    def set_options(self, options: ModelOptions) -> None:
        """Apply those options that may change while the model runs."""
        self._options = options
        for lane in self.lanes:
            lane.max_queue = options.max_queue
            if isinstance(lane, Batcher):
                delay_s = options.max_batch_delay_ms / 1000
                lane.set_limits(options.max_batch_size, delay_s)

    def close(self) -> None:
        """End the lanes, once what they accepted has been answered."""
        for lane in self.lanes:
            lane.close()

    def release(self) -> None:
        """Drop the handler, so that its memory is free."""
        self.calls.handler = self.calls.expected = None
