"""Lanes: the bounds, order and guarantees of running handlers."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from oip_handler.errors import DeadlineExceeded, OIPError, Overloaded
from oip_host.lanes.lane import Job, Lane, LoopLane, ThreadLane
from support.process import DEADLINE_S, wait_for

KINDS = ["thread", "loop"]
MakeLane = Callable[..., Lane]


def threads_of(name: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == f"lane-{name}"]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of the lane and of its threads in this test."""
    return str(request.node.name)


@pytest.fixture
def make(name: str) -> Iterator[MakeLane]:
    """Make lanes; close them after the test and wait for the end of their threads."""
    made: list[Lane] = []

    def lane(kind: str, concurrency: int = 1, queue: int = 100, **more: Any) -> Lane:
        classes: dict[str, Callable[..., Lane]] = {
            "thread": ThreadLane,
            "loop": LoopLane,
        }
        made.append(classes[kind](name, concurrency, queue, **more))
        return made[-1]

    yield lane
    for each in made:
        each.close()
    wait_for(lambda: not threads_of(name), "the end of the lane's threads")


class Calls:
    """Calls that wait for the test and are recorded; both sync and async."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.asynchronous = isinstance(lane, LoopLane)
        self.started: list[Any] = []
        self.most = self.running = 0
        self._lock = threading.Lock()
        self._open: dict[Any, threading.Event] = {}

    def submit(self, key: Any, timeout_s: float | None = None) -> Job:
        """Submit a call that returns its key once the test opens it."""
        self._open.setdefault(key, threading.Event())
        call = self._answer_async if self.asynchronous else self._answer
        return self.lane.submit(call, key, timeout_s=timeout_s)

    def open(self, *keys: Any) -> None:
        for key in keys or tuple(self._open):
            self._open[key].set()

    def has_started(self, number: int) -> bool:
        return len(self.started) == number

    def _enter(self, key: Any) -> None:
        with self._lock:
            self.started.append(key)
            self.running += 1
            self.most = max(self.most, self.running)

    def _leave(self) -> None:
        with self._lock:
            self.running -= 1

    def _answer(self, key: Any) -> Any:
        self._enter(key)
        self._open[key].wait(DEADLINE_S)
        self._leave()
        return key

    async def _answer_async(self, key: Any) -> Any:
        self._enter(key)
        try:
            await until(self._open[key].is_set)
        finally:
            self._leave()
        return key


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until the condition holds; AssertionError past the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def call(lane: Lane, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, for a LoopLane wrapped in a coroutine function."""
    if not isinstance(lane, LoopLane):
        return function

    async def run(*args: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args)

    return run


# -- both kinds ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_call_runs_in_a_thread_of_the_lanes(
    make: MakeLane, kind: str, name: str
) -> None:
    """The call's result comes back from a thread of the lanes."""
    lane = make(kind)
    where = call(lane, lambda *args: (threading.current_thread().name, args))
    job = lane.submit(where, 1, "two")
    expected = {"thread": "lanes", "loop": f"lane-{name}"}[kind]
    assert (expected, (1, "two")) == await job
    assert all(seconds > 0 for seconds in job.times())
    assert 0 == lane.pending


@pytest.mark.parametrize("kind", KINDS)
async def test_at_most_max_concurrency_calls_run_at_once(
    make: MakeLane, kind: str
) -> None:
    """At most max_concurrency calls run side by side; the others wait."""
    lane = make(kind, concurrency=3)
    calls = Calls(lane)
    jobs = [calls.submit(n) for n in range(10)]
    await until(lambda: len(calls.started) == 3)
    for n in range(10):
        calls.open(n)
        await jobs[n]
    assert 3 == calls.most


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_start_in_order_of_arrival(make: MakeLane, kind: str) -> None:
    """The queue is first in, first out."""
    calls = Calls(make(kind))
    jobs = [calls.submit(n) for n in range(50)]
    calls.open()
    assert list(range(50)) == [await job for job in jobs]
    assert list(range(50)) == calls.started


@pytest.mark.parametrize("kind", KINDS)
async def test_full_queue_refuses_at_once(make: MakeLane, kind: str) -> None:
    """Beyond max_concurrency running and max_queue waiting calls none is accepted."""
    lane = make(kind, concurrency=2, queue=3)
    calls = Calls(lane)
    jobs = [calls.submit(n) for n in range(5)]
    with pytest.raises(Overloaded, match="has 3 requests waiting, which is its max_q"):
        calls.submit("too many")
    assert 5 == lane.pending
    calls.open()
    assert list(range(5)) == [await job for job in jobs]
    late = calls.submit("later")
    calls.open()
    assert "later" == await late


@pytest.mark.parametrize("kind", KINDS)
async def test_max_queue_of_zero_still_runs_calls(make: MakeLane, kind: str) -> None:
    """With max_queue 0 a call is accepted only if it can start at once."""
    calls = Calls(make(kind, queue=0))
    job = calls.submit("one")
    with pytest.raises(Overloaded):
        calls.submit("two")
    calls.open()
    assert "one" == await job


@pytest.mark.parametrize("kind", KINDS)
async def test_call_fails_at_its_deadline(make: MakeLane, kind: str) -> None:
    """The caller gets the error on time, and a call that has not started never does."""
    lane = make(kind)
    calls = Calls(lane)
    running, waiting = calls.submit("running", 0.2), calls.submit("waiting", 0.01)
    for job, limit in ((waiting, "0.01"), (running, "0.2")):
        with pytest.raises(DeadlineExceeded, match=f"did not answer within {limit} s"):
            await job
    after = calls.submit("after")
    calls.open()
    assert "after" == await after
    assert ["running", "after"] == calls.started
    await lane.wait_until_empty()


@pytest.mark.parametrize("kind", KINDS)
async def test_deadline_does_not_affect_an_answer_in_time(
    make: MakeLane, kind: str
) -> None:
    """A later deadline changes nothing, also when it passes."""
    lane = make(kind)
    job = lane.submit(call(lane, lambda: "soon"), timeout_s=1)
    assert "soon" == await job
    await until(lambda: time.perf_counter() > job.deadline)
    assert "soon" == await job
    assert 1 == await lane.submit(call(lane, lambda: 1), timeout_s=3600)


@pytest.mark.parametrize("kind", KINDS)
async def test_each_call_has_its_own_deadline(make: MakeLane, kind: str) -> None:
    """Calls fail in the order of their deadlines, and no other calls do."""
    calls = Calls(make(kind))
    limits = {"long": 3600, "second": 0.1, "first": 0.05, "third": 0.15}
    jobs = {key: calls.submit(key, limit) for key, limit in limits.items()}
    failed = []
    limits_met = ("first", "second", "third")
    for key in limits_met:
        with pytest.raises(DeadlineExceeded, match=f"within {limits[key]:g} s"):
            await jobs[key]
        failed.append({k for k, job in jobs.items() if job.future.done()})
    assert all(key in done for key, done in zip(limits_met, failed, strict=True))
    assert "long" not in failed[-1]
    calls.open()
    assert "long" == await jobs["long"]


async def test_abandoned_calls_take_no_room(make: MakeLane) -> None:
    """Cancelled calls do not pile up behind a call that hangs."""
    lane = make("thread", queue=3)
    calls = Calls(lane)
    first = calls.submit("first")
    await until(partial(calls.has_started, 1))
    for n in range(1000):
        calls.submit(n).cancel()
    kept = [calls.submit(n) for n in range(3)]
    assert 3 == len(lane._waiting)  # type: ignore[attr-defined]
    calls.open()
    assert ["first", 0, 1, 2] == [await first, *[await job for job in kept]]


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_frees_the_place_at_once(make: MakeLane, kind: str) -> None:
    """A cancelled call makes room before the lane reaches it."""
    lane = make(kind, queue=1)
    calls = Calls(lane)
    first, second = calls.submit("first"), calls.submit("second")
    await until(lambda: calls.started)
    with pytest.raises(Overloaded):
        calls.submit("refused")
    second.cancel()
    await asyncio.sleep(0)
    third = calls.submit("third")
    calls.open()
    assert ["first", "third"] == [await first, await third]
    assert ["first", "third"] == calls.started
    assert 0 == lane.pending


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_call_keeps_no_memory(make: MakeLane, kind: str) -> None:
    """The arguments of a cancelled call are freed while the lane is still busy."""

    class Tensor:
        pass

    lane = make(kind)
    calls = Calls(lane)
    first = calls.submit("first")
    await until(lambda: calls.started)
    tensor = Tensor()
    known = weakref.ref(tensor)
    job = lane.submit(call(lane, lambda given: given), tensor)
    del tensor
    job.cancel()

    def gone() -> bool:
        gc.collect()
        return known() is None

    await until(gone)
    assert not first.future.done()
    calls.open()
    assert "first" == await first


@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_is_answered_exactly_once(make: MakeLane, kind: str) -> None:
    """Under load each caller gets its own result, and no call runs twice."""
    lane = make(kind, concurrency=4, queue=3000)
    ran: list[int] = []

    def counted(n: int) -> int:
        ran.append(n)  # appending to a list is atomic
        return n * n

    run = call(lane, counted)
    jobs = [lane.submit(run, n, timeout_s=60) for n in range(3000)]
    assert [n * n for n in range(3000)] == [await job for job in jobs]
    assert list(range(3000)) == sorted(ran)
    await lane.wait_until_empty()
    assert 0 == lane.pending


@pytest.mark.parametrize("kind", KINDS)
async def test_random_calls_and_cancellations_free_every_place(
    make: MakeLane, kind: str
) -> None:
    """In any mixture of calls and cancellations every place is free in the end."""
    lane = make(kind, concurrency=2, queue=1000)
    run = call(lane, lambda n: n)
    jobs = []
    for n in range(1000):
        jobs.append(lane.submit(run, n))
        if n % 3 == 0:
            jobs[n // 2].cancel()
        if n % 50 == 0:
            await asyncio.sleep(0)
    answers = await asyncio.gather(*(job for job in jobs), return_exceptions=True)
    assert all(
        answer == n or isinstance(answer, asyncio.CancelledError)
        for n, answer in enumerate(answers)
    )
    await lane.wait_until_empty()
    assert 0 == lane.pending


@pytest.mark.parametrize("kind", KINDS)
async def test_exception_reaches_the_caller(make: MakeLane, kind: str) -> None:
    """The caller gets the exception object of the call, and the lane continues."""
    lane = make(kind)
    error = ValueError("wrong")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="wrong") as caught:
        await lane.submit(call(lane, fail))
    assert error is caught.value
    assert 1 == await lane.submit(call(lane, lambda: 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "raised", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration]
)
async def test_exception_that_ends_a_thread_is_a_failed_call(
    make: MakeLane, kind: str, raised: type[BaseException]
) -> None:
    """SystemExit and exceptions that a future cannot carry only fail the call."""
    lane = make(kind)

    def fail() -> None:
        raise raised("enough")

    with pytest.raises(RuntimeError, match=raised.__name__):
        await asyncio.wait_for(lane.submit(call(lane, fail)), DEADLINE_S)
    assert 1 == await lane.submit(call(lane, lambda: 1))
    assert 0 == lane.pending


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_error_of_a_call_does_not_cancel_the_caller(
    make: MakeLane, kind: str
) -> None:
    """CancelledError raised by a handler is a failure of the handler."""
    lane = make(kind)

    def fail() -> None:
        raise asyncio.CancelledError

    with pytest.raises(OIPError, match="the call was cancelled"):
        await lane.submit(call(lane, fail))


@pytest.mark.parametrize("kind", KINDS)
async def test_wait_until_empty_waits_for_accepted_calls(
    make: MakeLane, kind: str
) -> None:
    """It returns at once if the lane is empty, otherwise with the last call."""
    lane = make(kind)
    await lane.wait_until_empty()
    calls = Calls(lane)
    jobs = [calls.submit(n) for n in range(2)]
    waiting = [asyncio.create_task(lane.wait_until_empty()) for _ in range(3)]
    waiting[0].cancel()
    calls.open(0)
    await jobs[0]
    await until(waiting[0].done)
    assert [True, False, False] == [task.done() for task in waiting]
    calls.open(1)
    await asyncio.gather(*waiting[1:])
    assert jobs[1].future.done()
    await lane.wait_until_empty()


@pytest.mark.parametrize("kind", KINDS)
async def test_wait_until_empty_waits_for_an_abandoned_call(
    make: MakeLane, kind: str
) -> None:
    """A handler that still runs is waited for, even if its client has left."""
    lane = make(kind)
    ended = threading.Event()
    entered = threading.Event()
    go = threading.Event()

    def stubborn() -> None:
        entered.set()
        go.wait(DEADLINE_S)
        ended.set()

    job = lane.submit(call(lane, stubborn))
    await until(entered.is_set)
    job.cancel()
    draining = asyncio.create_task(lane.wait_until_empty())
    await asyncio.sleep(0)
    assert not draining.done()
    go.set()
    await draining
    assert ended.is_set()


@pytest.mark.parametrize("kind", KINDS)
async def test_close_runs_accepted_calls(make: MakeLane, kind: str, name: str) -> None:
    """After close every accepted call is answered, and then the threads end."""
    lane = make(kind)
    calls = Calls(lane)
    jobs = [calls.submit(n) for n in range(5)]
    lane.close()
    lane.close()
    calls.open()
    assert list(range(5)) == [await job for job in jobs]
    await until(lambda: not threads_of(name))


@pytest.mark.parametrize("kind", KINDS)
async def test_closed_lane_accepts_calls_again(make: MakeLane, kind: str) -> None:
    """A model that is loaded again after its unload can use its lane at once."""
    lane = make(kind)
    for n in range(20):
        job = lane.submit(call(lane, lambda given: given), n)
        assert n == await asyncio.wait_for(job, DEADLINE_S)
        lane.close()


@pytest.mark.parametrize("kind", KINDS)
def test_lane_serves_one_loop_after_another(make: MakeLane, kind: str) -> None:
    """`load()` before a server's start has its own loop; later calls have another."""
    lane = make(kind)

    async def ask(n: int) -> Any:
        return await lane.submit(call(lane, lambda given: given), n)

    assert [1, 2] == [asyncio.run(ask(1)), asyncio.run(ask(2))]


@pytest.mark.parametrize("kind", KINDS)
async def test_call_sees_the_context_of_its_server(make: MakeLane, kind: str) -> None:
    """Context variables, where KServe keeps settings, are visible in the lane."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("here")
    lane = make(kind)
    assert "here" == await lane.submit(call(lane, variable.get))


# -- threads ------------------------------------------------------------------


async def test_result_after_the_loops_end_is_ignored(make: MakeLane) -> None:
    """A handler that outlives the server's loop ends quietly in its thread."""
    lane = make("thread")
    go, entered = threading.Event(), threading.Event()

    def stubborn() -> None:
        entered.set()
        go.wait(DEADLINE_S)

    async def ask() -> None:
        lane.submit(stubborn)
        await until(entered.is_set)

    await asyncio.get_running_loop().run_in_executor(None, partial(asyncio.run, ask()))
    go.set()


# -- coroutines ---------------------------------------------------------------


async def test_blocking_coroutine_blocks_only_its_own_lane(
    make: MakeLane,
) -> None:
    """The server's loop continues while an async handler blocks its own loop."""
    lane = make("loop", concurrency=10)
    go, entered = threading.Event(), threading.Event()

    async def block() -> str:
        entered.set()
        go.wait(DEADLINE_S)
        return "done"

    job = lane.submit(block)
    await until(entered.is_set)
    assert not job.future.done()
    go.set()
    assert "done" == await job


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_abandoned_coroutine_is_cancelled(make: MakeLane, how: str) -> None:
    """Cancellation and deadlines reach the coroutine and free its place."""
    lane = make("loop", queue=0)
    entered, left = threading.Event(), threading.Event()

    async def wait() -> None:
        entered.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            left.set()

    job = lane.submit(wait, timeout_s=1 if how == "late" else None)
    await until(entered.is_set)
    if how == "cancelled":
        job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await until(left.is_set)
    await lane.wait_until_empty()
    assert 1 == await lane.submit(call(lane, lambda: 1))
