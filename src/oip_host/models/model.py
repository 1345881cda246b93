"""One model: its handler, and a request's way to it and back.

Its life is in `life`; what KServe itself calls of a model is in `kserve.base_model`.
"""

from __future__ import annotations

import logging
import time
from typing import Any, TypeVar

from oip_handler.boundary import Encode, EncodedResponse, count_elements, translate
from oip_handler.errors import NotSupported, OIPError
from oip_handler.messages import InferenceRequest, InferenceResponse
from oip_host.hookspecs import Inference, State
from oip_host.kserve.api import kserve
from oip_host.lanes.lane import Job, Lane
from oip_host.models import v1
from oip_host.models.life import ModelLife
from oip_host.telemetry.context import RequestContext, current

__all__ = ["Model"]

T = TypeVar("T")

log = logging.getLogger("oip_host")

_READY = State.READY  # a member of an Enum is slow to find


def _return_response(
    _: InferenceRequest, response: InferenceResponse
) -> InferenceResponse:
    return response


class Model(ModelLife):
    """A handler as a `kserve.Model`: guards its state, and runs its calls.

    `model_handler` is a handler, or a class or function without arguments that makes
    one when the model loads. A `kserve.Model` in its place is hosted as it is.
    """

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and answers; KServe assigns to it too."""
        return self.state is _READY

    @ready.setter
    def ready(self, value: bool) -> None:
        self.state = State.READY if value else State.UNAVAILABLE

    async def infer(
        self,
        request: InferenceRequest,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> InferenceResponse:
        """Return the model's answer; `timeout_s` is the client's own deadline.

        Its outputs are those that the request names, in that order. Raises OIPError,
        and nothing else.
        """
        return await self.infer_encoded(request, _return_response, context, timeout_s)

    async def infer_encoded(
        self,
        request: InferenceRequest,
        encode: Encode[T],
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """Return what `encode` makes of the model's answer to a request; see `infer`.

        It is called where the handler ran and before its next call, so that a handler
        may use the memory of its outputs again.
        """
        if self._successor is not None:
            model: Model = self._successor
            return await model.infer_encoded(request, encode, context, timeout_s)
        if self.state is not _READY:
            raise self.not_ready()
        context = context or RequestContext()
        execution = self._execution
        result: EncodedResponse[T] = await self._run(
            context, execution.requests, timeout_s, execution.answer,
            request, encode, context,
        )  # fmt: skip
        return result.content

    async def _run(
        self,
        context: RequestContext,
        lane: Lane,
        timeout_s: float | None,
        call: Any,
        *args: Any,
    ) -> Any:
        """Return the result of a call in a lane, and count it; raises OIPError only."""
        self._begin(context)
        limit_s = self.options.timeout_s
        if timeout_s is not None and timeout_s < limit_s:
            limit_s = timeout_s
        job: Job | None = None
        result: Any = None
        outcome = "Cancelled"
        try:
            job = lane.submit(call, *args, timeout_s=limit_s)
            result = await job
            outcome = "ok"
            return result
        except Exception as error:
            failure = error if isinstance(error, OIPError) else self._explain(error)
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

    def _explain(self, error: Exception) -> OIPError:
        """Log what was raised beside the handler, and return the client's error."""
        log.error("could not build the answer of model '%s'", self.name, exc_info=error)
        return translate(error, self.name)

    def _begin(self, context: RequestContext) -> None:
        """Note that a request has found its model, and begin its span."""
        context.model, context.version = self.name, self.version
        if self.observer.tracing is not None:
            self.observer.tracing.begin(context)

    def count_failure(self, context: RequestContext, error: OIPError) -> None:
        """Count a request that failed, unless it was counted in its lane."""
        if context.statistics is None:
            self._begin(context)
            self._count(context, error.kind, None, None, None)

    def _count(
        self,
        context: RequestContext,
        outcome: str,
        job: Job | None,
        request: Any,
        result: Any,
    ) -> None:
        """Count an inference that ended, and report it to the observer."""
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
            context.span.end(outcome, job)
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
        """Return the answer to a V1 request and its headers.

        A `kserve.Model` takes the body as it is; a handler takes
        `{"instances": [...]}` as that input, and answers `{"predictions": [...]}`.
        """
        context = current.get() or RequestContext("v1", headers)
        try:
            return await self._answer_v1(context, body, headers, verb)
        except OIPError as error:
            self.count_failure(context, error)
            raise

    async def _answer_v1(
        self, context: RequestContext, body: Any, headers: dict[str, str], verb: Any
    ) -> tuple[Any, dict[str, str]]:
        if self._successor is not None:
            model: Model = self._successor
            return await model._answer_v1(context, body, headers, verb)
        if self.state is not _READY:
            raise self.not_ready()
        predict = kserve.model.InferenceVerb.PREDICT
        execution = self._execution
        if "predict_v1" in execution.traits.methods:
            answer: tuple[Any, dict[str, str]] = await self._run(
                context, execution.lane_for("predict_v1"), None,
                execution.calls.predict_v1,
                context, v1.body(body, headers), headers, verb or predict,
            )  # fmt: skip
            return answer
        if verb not in (None, predict):
            raise NotSupported(f"model '{self.name}' does not explain")
        request = v1.request(body, await self.metadata())
        return await self.infer_encoded(request, v1.response, context), {}
