"""Lanes: where a model's handler runs, off the server's event loop.

A `Lane` belongs to one model. It takes calls on the server's loop, runs them elsewhere
with bounds on concurrency, queue and time, and hands the results back in one wake-up
for all that are done. `ThreadLane` runs plain functions in the threads that all lanes
share; `LoopLane` runs coroutine functions on an event loop of its own, so that one that
blocks hurts no other model.

A lane belongs to the event loop on which it is used; all its methods are called there.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

from oip_handler.errors import DeadlineExceeded, OIPError, Overloaded
from oip_host.lanes.thread_pool import ThreadPool, get_shared_pool

__all__ = ["Job", "Lane", "LoopLane", "ThreadLane"]


class Job:
    """One call on its way through a lane; await it for the call's result or exception.

    A waiter that is cancelled frees the call's place. Times are those of
    `time.perf_counter`. A call that ran in a batch knows how many calls that was, and
    whether it is the one that counts for all.
    """

    __slots__ = (
        "abandoned",
        "args",
        "batch_size",
        "call",
        "deadline",
        "finished_at",
        "future",
        "lane",
        "leads",
        "queued_at",
        "started_at",
        "task",
    )  # fmt: skip

    def __init__(
        self,
        lane: Lane,
        future: asyncio.Future[Any],
        call: Callable[..., Any],
        args: Any,
    ) -> None:
        self.lane = lane
        self.future = future
        self.call = call
        self.args = args
        self.queued_at = time.perf_counter()
        self.started_at = 0.0
        self.finished_at = 0.0
        self.deadline = math.inf
        self.abandoned = False
        self.task: asyncio.Task[Any] | None = None
        self.batch_size, self.leads = 1, True

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self.future)
        except asyncio.CancelledError:
            self.lane.abandon(self)
            raise

    def run(self) -> Job | None:
        """Run the call in this thread, and return the one that may run next."""
        return self.lane.work(self)

    def cancel(self) -> None:
        """Give up the call: its place is free if it has not started."""
        self.future.cancel()
        self.lane.abandon(self)

    def times(self) -> tuple[float, float]:
        """Return seconds in the queue and in the call, until now if it goes on."""
        if not self.started_at:
            return time.perf_counter() - self.queued_at, 0.0
        ended_at = self.finished_at or time.perf_counter()
        return self.started_at - self.queued_at, ended_at - self.started_at


class Lane(ABC):
    """Admission, deadlines and delivery; subclasses say where a call runs."""

    def __init__(self, name: str, max_concurrency: int, max_queue: int) -> None:
        self.name = name
        self.max_concurrency = max_concurrency
        self.max_queue = max_queue
        self._live: set[Job] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: deque[tuple[Job, Any, BaseException | None]] = deque()
        self._waking = False
        self._empty: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    @property
    def pending(self) -> int:
        """How many calls were accepted and are not finished."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """How many of the pending calls have not started."""
        return sum(not job.started_at for job in list(self._live))

    @property
    def capacity(self) -> int:
        """How many calls may be pending."""
        return self.max_concurrency + self.max_queue

    def submit(
        self, call: Callable[..., Any], *args: Any, timeout_s: float | None = None
    ) -> Job:
        """Accept a call; await the job for its result or exception.

        Raises Overloaded where the queue is full. Past `timeout_s` the job fails with
        DeadlineExceeded, and a call that has not started is not started.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the first, or the next of a stock KServe server
            self._loop, self._timer, self._timer_at = loop, None, math.inf
        if len(self._live) >= self.capacity:
            raise Overloaded(
                f"model '{self.name}' has {self.max_queue} requests waiting, "
                "which is its max_queue"
            )
        job = Job(self, loop.create_future(), call, args)
        if timeout_s is not None:
            job.deadline = job.queued_at + timeout_s
            if job.deadline < self._timer_at:
                self._set_timer(job.deadline)
        self._live.add(job)
        try:
            self._start(job)
        except RuntimeError as error:  # there can be no more threads
            self.abandon(job)
            raise Overloaded(f"model '{self.name}' cannot run: {error}") from error
        return job

    @abstractmethod
    def _start(self, job: Job) -> None:
        """Start the job elsewhere; `_finish` is called from there."""

    def _finish(self, job: Job, result: Any, error: BaseException | None) -> None:
        """Pass a result to the server's loop. Called where the job ran."""
        job.finished_at = time.perf_counter()
        self._done.append((job, result, error))
        if not self._waking:  # else a wake-up is under way and will find this one too
            self._waking = True
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the server's loop is closed: nobody waits any more
                self._waking = False

    def _deliver(self) -> None:
        self._waking = False
        while self._done:
            job, result, error = self._done.popleft()
            self._discard(job)
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)

    def _set_timer(self, deadline: float) -> None:
        """Call `_expire` at the deadline, which is the earliest of all.

        One timer serves all calls: it finds the next deadline when it goes off, so
        that calls which are answered in time cost none.
        """
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        delay = max(deadline - time.perf_counter(), 0.0)
        self._timer = self._loop.call_later(delay, self._expire)
        self._timer_at = deadline

    def _expire(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = time.perf_counter()
        earliest = math.inf
        for job in [job for job in self._live if not job.future.done()]:
            if job.deadline > now:
                earliest = min(earliest, job.deadline)
                continue
            waited_s = job.deadline - job.queued_at
            job.future.set_exception(
                DeadlineExceeded(
                    f"model '{self.name}' did not answer within {waited_s:g} s"
                )
            )
            self.abandon(job)
        if earliest < math.inf:
            self._set_timer(earliest)

    def abandon(self, job: Job) -> None:
        """Forget a call that nobody waits for; one that waits is never started."""
        if not job.started_at and not job.finished_at:
            job.abandoned = True
            job.args = None  # its tensors do not wait for the thread to come by
            self._discard(job)

    def _discard(self, job: Job) -> None:
        self._live.discard(job)
        if not self._live and self._empty is not None:
            self._empty.set_result(None)
            self._empty = None

    def fail_pending(self, error: Exception) -> int:
        """Fail every call that is not finished, and return their number."""
        waiting = [job for job in self._live if not job.future.done()]
        for job in waiting:
            job.future.set_exception(error)
            self.abandon(job)
        return len(waiting)

    async def wait_until_empty(self) -> None:
        """Wait until no accepted call is left."""
        if self.pending:
            if self._empty is None:
                self._empty = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._empty)

    def work(self, job: Job) -> Job | None:
        """Run a call in this thread, and return the one that may run next."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027  # most have nothing
        """End what is the lane's own. Calls that were accepted still run."""


class ThreadLane(Lane):
    """Runs plain functions, at most `max_concurrency` at a time, in shared threads."""

    def __init__(self, name: str, max_concurrency: int, max_queue: int) -> None:
        super().__init__(name, max_concurrency, max_queue)
        self._pool: ThreadPool
        self._pool_loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        # what follows is read and written under the lock
        self._running = 0
        self._waiting: deque[Job] = deque()

    def abandon(self, job: Job) -> None:
        """Forget a call, and take it out of the queue."""
        super().abandon(job)
        if job.abandoned:
            with self._lock, suppress(ValueError):
                self._waiting.remove(job)

    def _start(self, job: Job) -> None:
        with self._lock:
            if self._running >= self.max_concurrency:
                self._waiting.append(job)
                return
            self._running += 1
        if self._pool_loop is not self._loop:
            self._pool, self._pool_loop = get_shared_pool(), self._loop
        self._pool.start(job)

    def work(self, job: Job) -> Job | None:
        """Run a call in this thread, and return the one that may run next."""
        if not job.abandoned:
            self._run(job)
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
        return None

    def _run(self, job: Job) -> None:
        job.started_at = time.perf_counter()
        try:
            result = job.call(*job.args)
        except BaseException as error:  # SystemExit of a handler ends no thread
            self._finish(job, None, contain(error))
        else:
            self._finish(job, result, None)


class LoopLane(Lane):
    """Runs coroutine functions, at most `max_concurrency` at a time."""

    def __init__(self, name: str, max_concurrency: int, max_queue: int) -> None:
        super().__init__(name, max_concurrency, max_queue)
        self._own: asyncio.AbstractEventLoop | None = None
        self._slots: asyncio.Semaphore | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _start(self, job: Job) -> None:
        if self._own is None:
            self._own = asyncio.new_event_loop()
            self._slots = asyncio.Semaphore(self.max_concurrency)
            self._tasks = set()
            threading.Thread(
                # in a copy of this context: KServe keeps settings in one
                target=contextvars.copy_context().run,
                args=(self._run_loop, self._own),
                name=f"lane-{self.name}",
                daemon=True,
            ).start()
        assert self._slots is not None
        run = self._run(job, self._slots)
        self._own.call_soon_threadsafe(self._spawn, job, run, self._own, self._tasks)

    @staticmethod
    def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()

    @staticmethod
    def _spawn(
        job: Job,
        run: Coroutine[Any, Any, None],
        own: asyncio.AbstractEventLoop,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        job.task = own.create_task(run)
        tasks.add(job.task)
        job.task.add_done_callback(tasks.discard)

    async def _run(self, job: Job, slots: asyncio.Semaphore) -> None:
        async with slots:
            if job.abandoned:
                return
            job.started_at = time.perf_counter()
            try:
                result = await job.call(*job.args)
            except BaseException as error:
                self._finish(job, None, contain(error))
            else:
                self._finish(job, result, None)

    def abandon(self, job: Job) -> None:
        """Forget a call, and cancel it if it runs."""
        super().abandon(job)
        if job.task is not None and not job.finished_at:
            job.task.get_loop().call_soon_threadsafe(job.task.cancel)

    def close(self) -> None:
        """End the loop, once its calls have ended."""
        if self._own is not None:
            asyncio.run_coroutine_threadsafe(self._end(self._tasks), self._own)
            self._own = None

    @staticmethod
    async def _end(tasks: set[asyncio.Task[None]]) -> None:
        await asyncio.gather(*tasks, return_exceptions=True)
        asyncio.get_running_loop().stop()


def contain(error: BaseException) -> Exception:
    """Return an exception that can be raised where a caller waits, and end nothing."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    if isinstance(error, asyncio.CancelledError):
        return OIPError("the call was cancelled")
    return RuntimeError(f"the handler raised {type(error).__name__}: {error}")
