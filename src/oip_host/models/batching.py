"""Dynamic batching: requests that fit together wait for each other, and run as one.

A `Batcher` is a lane in front of a model's own: what waits when the model is free is
the next batch. `merged` makes one request of several, `split` several answers of one.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from oip_handler.boundary import Encode, EncodedResponse
from oip_handler.errors import HandlerFault, Overloaded
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    as_dict,
    construct,
)
from oip_handler.tensors import TensorData
from oip_host.lanes.lane import Job, Lane, contained
from oip_host.telemetry.context import RequestContext

__all__ = ["Batcher", "Outcome", "answered", "merged", "rows_of", "split"]

Asked: TypeAlias = "tuple[InferenceRequest, Encode[Any], RequestContext]"
Outcome: TypeAlias = "EncodedResponse[Any] | Exception"
Calls: TypeAlias = "Generator[InferenceRequest, InferenceResponse, list[Outcome]]"

_CODEC = ("binary_data", "binary_data_output", "binary_data_size")
"""Parameters that say how a tensor travels, and nothing to the model."""
_TICK_S = 0.001
"""Seconds between two ticks of uvloop's timers, which may be that much too early."""


class _Apart(Exception):
    """A batch failed, and each of its requests has to be asked for by itself."""


class Batcher(Lane):
    """Runs the calls that it accepts in batches, in another lane.

    A job's call is not used: `run` takes the arguments of each job in a batch, its
    request, how to encode the answer and its context, and returns the outcomes. At most
    `max_concurrency` batches of at most `max_batch_size` rows run at once; what has
    more rows runs alone. While fewer rows wait, the oldest request is held back for up
    to `delay_s` seconds.
    """

    def __init__(
        self,
        lane: Lane,
        run: Callable[[list[Asked]], Any],
        max_batch_size: int,
        delay_s: float,
    ) -> None:
        super().__init__(lane.name, lane.max_concurrency, lane.max_queue)
        self._lane = lane
        self._run = run
        self._max_batch_size = max_batch_size
        self._delay_s = delay_s
        self._calls: dict[Job, list[Job]] = {}  # of the lane, and the jobs of each
        self._pumping = False
        self._alarm: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()
        # by age, each with its key and rows; read and written under the lock
        self._waiting: dict[Job, tuple[Hashable, int]] = {}

    @property
    def capacity(self) -> int:
        """How many calls may be pending."""
        return self.max_concurrency * self._max_batch_size + self.max_queue

    def batch(self, max_batch_size: int, delay_s: float) -> None:
        """Make batches of another size, or after another time, from now on."""
        with self._lock:
            self._max_batch_size, self._delay_s = max_batch_size, delay_s

    def cut_off(self, error: Exception) -> int:
        """Fail every call that is not finished; a running batch counts behind, as 1."""
        behind = sum(not call.future.done() for call in self._calls)
        return super().cut_off(error) - behind

    def abandon(self, job: Job) -> None:
        """Nobody waits for a call any more; with its last one a batch is given up."""
        with self._lock:
            super().abandon(job)
            self._waiting.pop(job, None)
            for call, jobs in self._calls.items():
                if job in jobs and all(each.future.done() for each in jobs):
                    self._lane.abandon(call)

    def _start(self, job: Job) -> None:
        fit = _fit(job.args[0]) or (job, self._max_batch_size)
        with self._lock:
            self._waiting[job] = fit
        if not self._pumping:  # in the next round: those that came with it join it
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Call the lane for as many batches as are due and may run now."""
        self._pumping = False
        if self._alarm is not None:
            self._alarm.cancel()
        free = self.max_concurrency - len(self._calls)
        if not free:  # `_ran` comes back to it
            return
        with self._lock:
            due, next_s = self._gathered()
        called = sum(not jobs for jobs in self._calls.values())  # and not started yet
        for _ in range(min(free, len(due) - called)):
            jobs: list[Job] = []
            try:
                call = self._lane.submit(self._run_next, jobs)
            except Overloaded:  # by calls that are not ours: look again soon
                next_s = 10 * _TICK_S
                break
            self._calls[call] = jobs
            call.future.add_done_callback(partial(self._ran, call))
        if next_s < math.inf:
            self._alarm = asyncio.get_running_loop().call_later(next_s, self._pump)

    def _gathered(self) -> tuple[list[list[Job]], float]:
        """The batches that are due, by age, and the seconds to the next one."""
        now, next_s = time.perf_counter(), math.inf
        due: list[list[Job]] = []
        partly: dict[Hashable, tuple[list[Job], int]] = {}
        for job, (key, rows) in self._waiting.items():
            if job.deadline <= now:  # it is about to be told so
                continue
            jobs, taken = partly.pop(key, ([], 0))
            if jobs and taken + rows > self._max_batch_size:
                due.append(jobs)
                jobs, taken = [], 0
            jobs.append(job)
            if taken + rows >= self._max_batch_size:
                due.append(jobs)
            else:
                partly[key] = jobs, taken + rows
        for jobs, _ in partly.values():
            held_s = jobs[0].queued_at + self._delay_s - now
            if held_s > 0:
                next_s = min(next_s, max(held_s, _TICK_S))
            else:
                due.append(jobs)
        due.sort(key=lambda jobs: jobs[0].queued_at)
        return due, next_s

    def _run_next(self, jobs: list[Job]) -> Any:
        """Run the batch that is next by now, which is `jobs` then. In the lane."""
        with self._lock:
            for job in next(iter(self._gathered()[0]), ()):
                del self._waiting[job]
                job.started_at = time.perf_counter()
                jobs.append(job)
            asked = [job.args for job in jobs]
        return self._run(asked)

    def _ran(self, call: Job, future: asyncio.Future[Any]) -> None:
        """Hand the outcomes of a batch back; what has to run apart waits once more."""
        jobs = self._calls.pop(call)
        error = future.exception()
        outcomes = future.result() if error is None else [error] * len(jobs)
        answers = sum(isinstance(outcome, EncodedResponse) for outcome in outcomes)
        lead = True
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, _Apart) and not job.future.done():
                with self._lock:
                    job.started_at = 0.0
                    self._waiting[job] = (job, self._max_batch_size)
                continue
            job.finished_at = call.finished_at or time.perf_counter()
            well = isinstance(outcome, EncodedResponse)
            if well:
                job.batch_size, job.leads = answers, lead and not job.future.done()
                lead = lead and not job.leads
            self._done.append((job, outcome, None) if well else (job, None, outcome))
        self._deliver()
        self._pump()


def _fit(request: InferenceRequest) -> tuple[Hashable, int] | None:
    """What requests that fit have in common, and the rows; None for one by itself."""
    rows = rows_of(request)
    if rows < 1:
        return None
    inputs = [
        (t.name, t.datatype, tuple(t.shape[1:]), _form(t.data), _key(t))
        for t in request.inputs
    ]
    outputs = [(output.name, _key(output)) for output in request.outputs or ()]
    return (_key(request), *inputs, *outputs), rows


def rows_of(request: InferenceRequest) -> int:
    """The first dimension that all inputs have in common; 0 where there is none."""
    first = {tensor.shape[0] if tensor.shape else 0 for tensor in request.inputs}
    return first.pop() if len(first) == 1 else 0


def _form(data: TensorData) -> Any:
    """What a handler that reads lists can see of a tensor beside its shape."""
    if data.array is None:  # as it comes from KServe's own server
        return type(data.root[0]) if isinstance(data.root, list) and data.root else None
    text = data.array.dtype == object and data.array.size
    return data.array.ndim, type(data.array.flat[0]) if text else None


def _shared(message: Any) -> dict[str, Any]:
    """The parameters that requests in a batch have in common."""
    return {k: v for k, v in as_dict(message.parameters).items() if k not in _CODEC}


def _key(message: Any) -> Hashable:
    """The parameters by what they look like: 1 is neither True nor 1.0."""
    return frozenset((name, repr(value)) for name, value in _shared(message).items())


def answered(
    batch: Sequence[Asked], check: Callable[[InferenceRequest], None]
) -> Calls:
    """The outcome of each request of a batch; yields what the handler has to be asked.

    The answer, or what it raised, is sent or thrown in. Each of several requests is
    checked by itself before; if they fail together, each has to be asked for apart.
    """
    outcomes: dict[int, Outcome] = {}
    for i, (request, *_) in enumerate(batch if len(batch) > 1 else ()):
        try:
            check(request)
        except Exception as error:
            outcomes[i] = contained(error)
    good = [i for i in range(len(batch)) if i not in outcomes]
    requests = [batch[i][0] for i in good]
    if good:
        parts: Sequence[InferenceResponse | Exception]
        try:
            parts = split((yield merged(requests)), requests)
        except Exception as error:
            failed = error if len(good) == 1 else _Apart()
            parts = [failed] * len(good)
        for i, part in zip(good, parts, strict=True):
            outcomes[i] = _encoded(part, *batch[i][:2])
    return [outcomes[i] for i in range(len(batch))]


def _encoded(
    part: InferenceResponse | Exception, request: InferenceRequest, encode: Encode[Any]
) -> Outcome:
    if isinstance(part, Exception):
        return part
    try:
        return EncodedResponse(part.outputs, encode(request, part))
    except Exception as error:
        return error


def merged(requests: Sequence[InferenceRequest]) -> InferenceRequest:
    """One request, without an id, with the rows of all; they fit and were checked."""
    first = requests[0]
    if len(requests) == 1:
        return first
    rows = sum(map(rows_of, requests))
    inputs = []
    for tensors in zip(*(request.inputs for request in requests), strict=True):
        arrays = [tensor.data.elements(tensor.datatype) for tensor in tensors]
        shape, data = [rows, *tensors[0].shape[1:]], TensorData(np.concatenate(arrays))
        inputs.append(_plain(tensors[0], shape=shape, data=data))
    outputs = [_plain(output) for output in first.outputs or ()]
    whole: InferenceRequest = _plain(first, id=None, inputs=inputs, outputs=outputs)
    return whole


def _plain(message: Any, **changed: Any) -> Any:
    shared = _shared(message)
    parameters = Parameters.model_validate(shared) if shared else None
    return _changed(message, parameters=parameters, **changed)


def _changed(message: Any, **changed: Any) -> Any:
    return construct(type(message), {**message.__dict__, **changed})


def split(
    answer: InferenceResponse, requests: Sequence[InferenceRequest]
) -> Sequence[InferenceResponse | Exception]:
    """The rows of an answer, dealt out to the requests, each with its own id.

    Where an output has not as many rows as the inputs, each gets that fault. A request
    whose inputs have no rows in common gets the whole answer.
    """
    ends = np.cumsum([rows_of(request) for request in requests]).tolist()
    for tensor in answer.outputs if ends[-1] else ():
        if tensor.shape[:1] != ends[-1:]:
            text = (
                f"model '{answer.model_name}' returned an invalid response: output "
                f"'{tensor.name}' has the shape {tensor.shape}, expected {ends[-1]} "
                "rows, as many as the inputs have (max_batch_size)"
            )
            return [HandlerFault(text) for _ in requests]
    arrays = [tensor.as_numpy() for tensor in answer.outputs]
    answers = []
    for request, end in zip(requests, ends, strict=True):
        rows = slice(end - rows_of(request), end) if end else ...
        parts = [array[rows] for array in arrays]
        outputs = [
            _changed(tensor, shape=list(part.shape), data=TensorData(part))
            for tensor, part in zip(answer.outputs, parts, strict=True)
        ]
        identity = answer.id if request.id is None else request.id
        answers.append(_changed(answer, id=identity, outputs=outputs))
    return answers
