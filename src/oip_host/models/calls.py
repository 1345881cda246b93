"""The calls of a handler's `infer` as its lane runs them: a request, or a batch."""

from __future__ import annotations

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
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
)
from oip_host.lanes.lane import contained
from oip_host.models.batching import Asked, Outcome, answered
from oip_host.telemetry.context import RequestContext, current
from oip_host.telemetry.crash_report import Frames

__all__ = ["Calls"]

T = TypeVar("T")


class Calls:
    """What a lane runs for one model, with `handler` once the model has one.

    A plain `infer` is called by `one` and `batch`, in a thread of the lane; an async
    one by `one_async` and `batch_async`, on its event loop.
    """

    def __init__(self, name: str, version: str) -> None:
        self._name = name
        self._version = version
        self.handler: Any = None
        self.frames = Frames(name, version, "handler")
        """The handler is called through them."""
        self.expected: ModelMetadataResponse | None = None
        """What inputs are held against, where that is asked for."""

    def one(
        self, request: InferenceRequest, encode: Encode[T], context: RequestContext
    ) -> EncodedResponse[T]:
        """The answer to a request, and what `encode` makes of it."""
        current.set(context)
        try:
            response = self._answer(request, context)
            return EncodedResponse(response.outputs, encode(request, response))
        finally:
            current.set(None)  # the thread goes on with other models

    async def one_async(
        self, request: InferenceRequest, encode: Encode[T], context: RequestContext
    ) -> EncodedResponse[T]:
        """As `one`."""
        current.set(context)
        response = await self._answer_async(request, context)
        return EncodedResponse(response.outputs, encode(request, response))

    def batch(self, batch: list[Asked]) -> list[Outcome]:
        """The outcome of each request, by one call of the handler if they fit."""
        calls = answered(batch, self._check)
        with _joined(batch) as context:
            try:
                request = next(calls)
                try:
                    answer = self._answer(request, context)
                except BaseException as error:
                    calls.throw(contained(error))
                else:
                    calls.send(answer)
            except StopIteration as finished:
                return finished.value  # type: ignore[no-any-return]
        raise AssertionError("a batch asks once")

    async def batch_async(self, batch: list[Asked]) -> list[Outcome]:
        """As `batch`."""
        calls = answered(batch, self._check)
        with _joined(batch) as context:
            try:
                request = next(calls)
                try:
                    answer = await self._answer_async(request, context)
                except BaseException as error:
                    calls.throw(contained(error))
                else:
                    calls.send(answer)
            except StopIteration as finished:
                return finished.value  # type: ignore[no-any-return]
        raise AssertionError("a batch asks once")

    async def passed_on(
        self, context: RequestContext, method: Callable[..., Any], *args: Any
    ) -> Any:
        """What another method of the handler answers, as that for V1."""
        current.set(context)
        return await self._calling_async(context)(method, *args)

    def _answer(
        self, request: InferenceRequest, context: RequestContext
    ) -> InferenceResponse:
        self._check(request)
        call = self.frames.call
        if context.span is not None:
            call = partial(context.span.calling, call)
        answer = call(self.handler.infer, request, self._name, self._version)
        return check_response(request, answer, self._name, self._version)

    async def _answer_async(
        self, request: InferenceRequest, context: RequestContext
    ) -> InferenceResponse:
        self._check(request)
        answer = await self._calling_async(context)(
            self.handler.infer, request, self._name, self._version
        )
        return check_response(request, answer, self._name, self._version)

    def _calling_async(self, context: RequestContext) -> Callable[..., Any]:
        """What calls the handler: its frame, in a span where the request has one."""
        if context.span is None:
            return self.frames.call_async
        elsewhere = getattr(self.handler, "elsewhere", False)
        return partial(context.span.calling_async, elsewhere, self.frames.call_async)

    def _check(self, request: InferenceRequest) -> None:
        check_request(request)
        if self.expected is not None:
            check_inputs(request, self.expected)


@contextmanager
def _joined(batch: list[Asked]) -> Iterator[RequestContext]:
    """Have one context for a batch, with one span for those of its requests."""
    contexts = [context for *_, context in batch]
    context = RequestContext.of_batch(contexts)
    traced = [each.span for each in contexts if each.span is not None]
    span = traced[0].together(traced) if traced and len(contexts) > 1 else None
    if span is not None:
        context.span = span
    current.set(context)
    try:
        yield context
    finally:
        current.set(None)
        if span is not None:
            span.ended()
