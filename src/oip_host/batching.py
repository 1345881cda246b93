"""Dynamic batching: requests that fit together wait for each other, and run as one.

A `Batcher` is a lane in front of a model's own lane. What waits when the model is free
is the next batch; `merged` and `split` make one request of several, and several answers
of one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from oip_host.datatypes import Array
from oip_host.errors import HandlerFault, InvalidRequest, OIPError
from oip_host.lanes import Job, Lane
from oip_host.tensors import TensorData
from oip_host.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    ResponseOutput,
    as_dict,
    trusted,
)

__all__ = ["Batcher", "answered", "merged", "rows_of", "split"]

Outcome: TypeAlias = "InferenceResponse | Exception"
Calls: TypeAlias = "Generator[InferenceRequest, InferenceResponse, list[Outcome]]"

_CODEC = ("binary_data", "binary_data_output", "binary_data_size")
"""Parameters that say how a tensor travels, and nothing to the model."""


class _Waiting(NamedTuple):
    job: Job
    key: Hashable
    rows: int


class Batcher(Lane):
    """Runs the calls that it accepts in batches, one after the other, in another lane.

    A job's call is not used: `run` takes the requests of a batch, each a job's only
    argument, and returns the outcome of each. At most `max_concurrency` batches of at
    most `max_batch_size` rows run at once. While fewer rows wait, the oldest request
    is held back for up to `delay_s` seconds.
    """

    def __init__(
        self,
        lane: Lane,
        run: Callable[[list[InferenceRequest]], Any],
        max_batch_size: int,
        delay_s: float,
    ) -> None:
        super().__init__(lane.name, lane.max_concurrency, lane.max_queue)
        self._lane = lane
        self._run = run
        self._max_batch_size = max_batch_size
        self._delay_s = delay_s
        self._waiting: deque[_Waiting] = deque()
        self._running = 0
        self._pumping = False
        self._delayed: asyncio.TimerHandle | None = None

    @property
    def capacity(self) -> int:
        """How many calls may be pending."""
        return self.max_concurrency * self._max_batch_size + self.max_queue

    def close(self) -> None:
        """The threads are those of the lane behind."""

    def cut_off(self, error: Exception) -> int:
        """Fail every call that is not finished; a running batch counts behind, as 1."""
        return super().cut_off(error) - self._running

    def abandon(self, job: Job) -> None:
        """Nobody waits for a call any more; one that has not started never will."""
        super().abandon(job)
        if job.abandoned:
            self._waiting = deque(w for w in self._waiting if w.job is not job)

    def _start(self, job: Job) -> None:
        self._waiting.append(_Waiting(job, *_fit(job.args[0])))
        if not self._pumping:  # in the next round: those that came with it join it
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Start as many batches as may run now."""
        self._pumping = False
        while self._waiting and self._running < self.max_concurrency:
            batch, rest = self._next()
            hold_s = self._hold_s(batch)
            if hold_s > 0:
                if self._delayed is None:
                    loop = asyncio.get_running_loop()
                    self._delayed = loop.call_later(hold_s, self._waited)
                return
            self._waiting = rest
            self._send([waiting.job for waiting in batch])

    def _next(self) -> tuple[list[_Waiting], deque[_Waiting]]:
        """The oldest request with those that fit to it, and the others."""
        first, *others = self._waiting
        batch, rest, rows = [first], deque[_Waiting](), first.rows
        for waiting in others:
            fits = waiting.key == first.key and waiting.key is not None
            if fits and rows + waiting.rows <= self._max_batch_size:
                batch.append(waiting)
                rows += waiting.rows
            else:
                rest.append(waiting)
        return batch, rest

    def _hold_s(self, batch: Sequence[_Waiting]) -> float:
        """Seconds for which a batch that is not full still waits for others."""
        full = sum(waiting.rows for waiting in batch) >= self._max_batch_size
        if full or batch[0].key is None or not self._delay_s:
            return 0.0
        return batch[0].job.queued_at + self._delay_s - time.perf_counter()

    def _waited(self) -> None:
        self._delayed = None
        self._pump()

    def _send(self, jobs: list[Job]) -> None:
        self._running += 1
        requests = [job.args[0] for job in jobs]
        try:
            inner = self._lane.submit(self._run, requests)
        except OIPError as error:
            self._running -= 1
            self._settle(jobs, [error] * len(jobs))
            return
        for job in jobs:
            job.started_at = inner.queued_at
            job.batch_size = len(jobs)
            job.leads = job is jobs[0]
        inner.future.add_done_callback(partial(self._ran, jobs))

    def _ran(self, jobs: list[Job], inner: asyncio.Future[Any]) -> None:
        self._running -= 1
        error = None if inner.cancelled() else inner.exception()
        if inner.cancelled() or error is not None:
            failure = error or OIPError("the call was cancelled")
            self._settle(jobs, [failure] * len(jobs))
        else:
            self._settle(jobs, inner.result())
        self._pump()

    def _settle(self, jobs: list[Job], outcomes: Sequence[Any]) -> None:
        finished_at = time.perf_counter()
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.finished_at = finished_at
            failed = isinstance(outcome, Exception)
            self._done.append((job, *((None, outcome) if failed else (outcome, None))))
        self._deliver()


def _fit(request: InferenceRequest) -> tuple[Hashable, int]:
    """What requests have in common that can be merged, and a request's rows.

    None for a request that runs alone: its inputs have no first dimension in common.
    """
    rows = rows_of(request)
    if not rows:
        return None, 1
    inputs = tuple(
        (
            tensor.name,
            tensor.datatype,
            tuple(tensor.shape[1:]),
            _form(tensor.data),
            _plain(tensor.parameters),
        )
        for tensor in request.inputs
    )
    outputs = tuple(
        (output.name, _plain(output.parameters)) for output in request.outputs or ()
    )
    return (inputs, outputs, _plain(request.parameters)), rows


def rows_of(request: InferenceRequest) -> int:
    """The first dimension that all inputs have in common; 0 where there is none."""
    first = {tensor.shape[0] if tensor.shape else 0 for tensor in request.inputs}
    return first.pop() if len(first) == 1 else 0


def _form(data: TensorData) -> Hashable:
    """What a handler that reads lists can see of a tensor beside its shape."""
    array = data.array
    if array is None or not array.size:
        return None
    text = type(array.flat[0]) if array.dtype == object else None
    return array.ndim > 1, text


def _plain(parameters: Parameters | None) -> Hashable:
    if parameters is None:
        return ()
    plain = as_dict(parameters).items()
    return frozenset((k, type(v), v) for k, v in plain if k not in _CODEC)


def answered(
    requests: Sequence[InferenceRequest], check: Callable[[InferenceRequest], None]
) -> Calls:
    """The outcome of each request of a batch; yields what the handler has to be asked.

    The answer, or what it raised, is sent or thrown in. Each request is checked by
    itself first. A batch that fails is asked for once more, request by request, so
    that only those fail that have to.
    """
    outcomes: dict[int, Outcome] = {}
    for i, request in enumerate(requests):
        try:
            check(request)
        except InvalidRequest as error:
            outcomes[i] = error
    good = [i for i in range(len(requests)) if i not in outcomes]
    together = len(good) > 1
    if together:
        whole = [requests[i] for i in good]
        try:
            answer = yield merged(whole)
        except Exception:
            together = False
        else:
            outcomes.update(zip(good, _parts(answer, whole), strict=True))
    if not together:
        for i in good:
            try:
                answer = yield requests[i]
            except Exception as error:
                outcomes[i] = error
            else:
                outcomes[i] = _parts(answer, [requests[i]])[0]
    return [outcomes[i] for i in range(len(requests))]


def _parts(
    answer: InferenceResponse, requests: Sequence[InferenceRequest]
) -> Sequence[Outcome]:
    """The answer to each request, or for each the fault that there is none."""
    if len(requests) == 1 and not rows_of(requests[0]):
        return [answer]
    try:
        return split(answer, requests)
    except HandlerFault as error:
        return [error] * len(requests)


def merged(requests: Sequence[InferenceRequest]) -> InferenceRequest:
    """One request with the rows of all; they have the same inputs, and were checked."""
    first = requests[0]
    rows = sum(map(rows_of, requests))
    inputs = [
        trusted(
            RequestInput,
            {
                **tensor.__dict__,
                "shape": [rows, *tensor.shape[1:]],
                "data": TensorData(
                    _joined([request.inputs[i] for request in requests])
                ),
            },
        )
        for i, tensor in enumerate(first.inputs)
    ]
    return trusted(InferenceRequest, {**first.__dict__, "id": None, "inputs": inputs})


def _joined(tensors: Sequence[RequestInput]) -> Array:
    arrays = [tensor.data.elements(tensor.datatype) for tensor in tensors]
    if any(array.ndim != 1 for array in arrays):
        arrays = [a.reshape(t.shape) for a, t in zip(arrays, tensors, strict=True)]
    return np.concatenate(arrays)


def split(
    answer: InferenceResponse, requests: Sequence[InferenceRequest]
) -> list[InferenceResponse]:
    """The rows of an answer, dealt out to the requests, each with its own id.

    Raises HandlerFault where an output has not as many rows as were asked for.
    """
    sizes = [rows_of(request) for request in requests]
    arrays = [tensor.as_numpy() for tensor in answer.outputs]
    for tensor, array in zip(answer.outputs, arrays, strict=True):
        if not array.ndim or len(array) != sum(sizes):
            raise HandlerFault(
                f"model '{answer.model_name}' answered wrongly: output "
                f"'{tensor.name}' has the shape {tensor.shape}, expected "
                f"{sum(sizes)} rows, one for each row of a batch (max_batch_size)"
            )
    answers = []
    start = 0
    for request, size in zip(requests, sizes, strict=True):
        outputs = [
            _rows(tensor, array[start : start + size])
            for tensor, array in zip(answer.outputs, arrays, strict=True)
        ]
        start += size
        own = {**answer.__dict__, "outputs": outputs}
        if request.id is not None:
            own["id"] = request.id
        answers.append(trusted(InferenceResponse, own))
    return answers


def _rows(tensor: ResponseOutput, array: Array) -> ResponseOutput:
    changed = {"shape": list(array.shape), "data": TensorData(array)}
    return trusted(ResponseOutput, {**tensor.__dict__, **changed})
