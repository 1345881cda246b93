"""Lanes: where a model's handler runs, off the server's event loop.

A `Lane` belongs to one model. It takes calls on the server's loop, runs them elsewhere
with bounds on concurrency, queue and time, and hands the results back in one wake-up
for all that are done. `ThreadLane` runs plain functions in threads of its own, started
when they are needed and ended when idle; `LoopLane` runs coroutine functions on an
event loop of its own, so that one that blocks hurts no other model.

A lane belongs to the event loop on which it is used; all its methods are called there.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from oip_host.errors import DeadlineExceeded, OIPError, Overloaded

__all__ = ["Job", "Lane", "LoopLane", "ThreadLane"]

IDLE_S = 60.0
"""Seconds after which a thread without work ends."""


class Job:
    """One call on its way through a lane; times are those of `time.perf_counter`."""

    __slots__ = (
        "abandoned",
        "args",
        "call",
        "finished_at",
        "future",
        "queued_at",
        "started_at",
        "task",
        "timer",
    )  # fmt: skip

    def __init__(
        self, future: asyncio.Future[Any], call: Callable[..., Any], args: Any
    ):
        self.future = future
        self.call = call
        self.args = args
        self.queued_at = time.perf_counter()
        self.started_at = 0.0
        self.finished_at = 0.0
        self.abandoned = False
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def queue_s(self) -> float:
        """Seconds between acceptance and start; until now where it did not start."""
        return (self.started_at or time.perf_counter()) - self.queued_at

    @property
    def run_s(self) -> float:
        """Seconds that the call took; until now where it has not ended."""
        if not self.started_at:
            return 0.0
        return (self.finished_at or time.perf_counter()) - self.started_at


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

    @property
    def pending(self) -> int:
        """How many calls were accepted and are not finished."""
        return len(self._live)

    def submit(
        self, call: Callable[..., Any], *args: Any, timeout_s: float | None = None
    ) -> Job:
        """Accept a call; await the job's `future` for its result or exception.

        Raises Overloaded where the queue is full. Past `timeout_s` the future fails
        with DeadlineExceeded, and a call that has not started is not started.
        Cancelling the future frees the place in the queue.
        """
        loop = asyncio.get_running_loop()
        if self.pending >= self.max_concurrency + self.max_queue:
            raise Overloaded(
                f"model '{self.name}' has {self.max_queue} requests waiting, "
                "which is its max_queue"
            )
        job = Job(loop.create_future(), call, args)
        job.future.add_done_callback(lambda _: self._settled(job))
        if timeout_s is not None:
            job.timer = loop.call_later(timeout_s, self._expire, job, timeout_s)
        self._loop = loop
        self._live.add(job)
        self._start(job)
        return job

    def _thread(self, target: Callable[..., None], *args: Any) -> None:
        """Start a thread in a copy of this context: KServe keeps settings in one."""
        threading.Thread(
            target=contextvars.copy_context().run,
            args=(target, *args),
            name=f"lane-{self.name}",
            daemon=True,
        ).start()

    @abstractmethod
    def _start(self, job: Job) -> None:
        """Have the job run elsewhere; `_finish` it from there."""

    def _finish(self, job: Job, result: Any, error: BaseException | None) -> None:
        """Hand a result back to the server's loop. Called where the job ran."""
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
            self._left(job)
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)

    def _expire(self, job: Job, timeout_s: float) -> None:
        if not job.future.done():
            job.future.set_exception(
                DeadlineExceeded(
                    f"model '{self.name}' did not answer within {timeout_s:g} s"
                )
            )

    def _settled(self, job: Job) -> None:
        """The job's future has its outcome; a call that has not started never will."""
        if job.timer is not None:
            job.timer.cancel()
        if not job.started_at and not job.finished_at:
            job.abandoned = True
            job.args = None  # its tensors do not wait for the thread to come by
            self._left(job)

    def _left(self, job: Job) -> None:
        self._live.discard(job)
        if not self._live and self._empty is not None:
            self._empty.set_result(None)
            self._empty = None

    def cut_off(self, error: Exception) -> int:
        """Fail every call that is not finished; tells how many there were."""
        waiting = [job for job in self._live if not job.future.done()]
        for job in waiting:
            job.future.set_exception(error)
        return len(waiting)

    async def drained(self) -> None:
        """Wait until no accepted call is left."""
        if self.pending:
            if self._empty is None:
                self._empty = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._empty)

    @abstractmethod
    def close(self) -> None:
        """Let the threads end. Calls that were accepted still run."""


class ThreadLane(Lane):
    """Runs plain functions, at most `max_concurrency` at a time."""

    def __init__(
        self, name: str, max_concurrency: int, max_queue: int, idle_s: float = IDLE_S
    ) -> None:
        super().__init__(name, max_concurrency, max_queue)
        self.threads = 0
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def _start(self, job: Job) -> None:
        with self._lock:  # against a thread that is just about to end for want of work
            self._jobs.put(job)
            if self.threads >= min(self.pending, self.max_concurrency):
                return
            self.threads += 1
            jobs = self._jobs
        self._thread(self._work, jobs)

    def _work(self, jobs: queue.SimpleQueue[Job | None]) -> None:
        while True:
            try:
                job = jobs.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    if jobs.empty():
                        self.threads -= 1
                        return
                continue
            if job is None:  # the lane was closed, and counts its threads anew
                return
            if not job.abandoned:
                self._run(job)
            del job  # its tensors are not kept while there is nothing to do

    def _run(self, job: Job) -> None:
        job.started_at = time.perf_counter()
        try:
            result = job.call(*job.args)
        except BaseException as error:  # SystemExit of a handler ends no thread
            self._finish(job, None, contained(error))
        else:
            self._finish(job, result, None)

    def close(self) -> None:
        with self._lock:
            for _ in range(self.threads):
                self._jobs.put(None)
            self._jobs, self.threads = queue.SimpleQueue(), 0


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
            self._thread(self._run_loop, self._own)
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
                self._finish(job, None, contained(error))
            else:
                self._finish(job, result, None)

    def _settled(self, job: Job) -> None:
        super()._settled(job)
        if job.task is not None and not job.finished_at:
            job.task.get_loop().call_soon_threadsafe(job.task.cancel)

    def close(self) -> None:
        if self._own is not None:
            asyncio.run_coroutine_threadsafe(self._end(self._tasks), self._own)
            self._own = None

    @staticmethod
    async def _end(tasks: set[asyncio.Task[None]]) -> None:
        await asyncio.gather(*tasks, return_exceptions=True)
        asyncio.get_running_loop().stop()


def contained(error: BaseException) -> Exception:
    """An exception that may pass on to the waiting side without ending it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    if isinstance(error, asyncio.CancelledError):
        return OIPError("the call was cancelled")
    return RuntimeError(f"the handler raised {type(error).__name__}: {error}")
