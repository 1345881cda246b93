"""Dynamic batching: requests that fit together wait for each other, and run as one.

A `Batcher` is a lane in front of a model's own: what waits when the model is free is
the next batch. What happens to the requests of one is in `merging`.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from oip_handler.boundary import EncodedResponse
from oip_handler.errors import Overloaded
from oip_host.lanes.lane import Job, Lane
from oip_host.models.merging import BatchItem, RunAlone, batch_key

__all__ = ["Batcher"]

_TICK_S = 0.001
"""Seconds between two ticks of uvloop's timers, which may be that much too early."""


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
        run: Callable[[list[BatchItem]], Any],
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

    def set_limits(self, max_batch_size: int, delay_s: float) -> None:
        """Apply another size of batches, and another time to wait for them."""
        with self._lock:
            self._max_batch_size, self._delay_s = max_batch_size, delay_s

    def fail_pending(self, error: Exception) -> int:
        """Fail every call that is not finished; a running batch counts behind, as 1."""
        behind = sum(not call.future.done() for call in self._calls)
        return super().fail_pending(error) - behind

    def abandon(self, job: Job) -> None:
        """Forget a call that nobody waits for; with its last one a batch ends too."""
        with self._lock:
            super().abandon(job)
            self._waiting.pop(job, None)
            for call, jobs in self._calls.items():
                if job in jobs and all(each.future.done() for each in jobs):
                    self._lane.abandon(call)

    def _start(self, job: Job) -> None:
        fit = batch_key(job.args[0]) or (job, self._max_batch_size)
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
        if not free:  # `_hand_out` comes back to it
            return
        with self._lock:
            due, next_s = self._collect_due()
        called = sum(not jobs for jobs in self._calls.values())  # and not started yet
        for _ in range(min(free, len(due) - called)):
            jobs: list[Job] = []
            try:
                call = self._lane.submit(self._run_next, jobs)
            except Overloaded:  # by calls that are not ours: look again soon
                next_s = 10 * _TICK_S
                break
            self._calls[call] = jobs
            call.future.add_done_callback(partial(self._hand_out, call))
        if next_s < math.inf:
            self._alarm = asyncio.get_running_loop().call_later(next_s, self._pump)

    def _collect_due(self) -> tuple[list[list[Job]], float]:
        """Return the batches that are due, by age, and the seconds to the next one."""
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
            for job in next(iter(self._collect_due()[0]), ()):
                del self._waiting[job]
                job.started_at = time.perf_counter()
                jobs.append(job)
            asked = [job.args for job in jobs]
        return self._run(asked)

    def _hand_out(self, call: Job, future: asyncio.Future[Any]) -> None:
        """Pass the outcomes of a batch on; what has to run alone waits again."""
        jobs = self._calls.pop(call)
        error = future.exception()
        outcomes = future.result() if error is None else [error] * len(jobs)
        answers = sum(isinstance(outcome, EncodedResponse) for outcome in outcomes)
        lead = True
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, RunAlone) and not job.future.done():
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
