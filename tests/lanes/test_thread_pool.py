"""The threads that the lanes share: how many there are, and when."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from oip_host.lanes import thread_pool as threads
from oip_host.lanes.thread_pool import ThreadPool
from support.process import DEADLINE_S

NEVER_S = 3600.0


class Held:
    """A task that runs until it is released, and records its thread."""

    def __init__(self, following: Held | None = None) -> None:
        self.started, self.ended = threading.Event(), threading.Event()
        self.go = threading.Event()
        self.thread = 0
        self.following = following

    def run(self) -> Held | None:
        self.thread = threading.get_ident()
        self.started.set()
        assert self.go.wait(DEADLINE_S)
        self.ended.set()
        return self.following


class Quick(Held):
    """A task that ends at once."""

    def __init__(self) -> None:
        super().__init__()
        self.go.set()


async def until(condition: Callable[[], object], seconds: float = DEADLINE_S) -> None:
    """Wait until a condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.001)


async def test_quick_tasks_share_one_thread() -> None:
    """Without tasks there is no thread; tasks that do not block need only one."""
    pool = ThreadPool(held_up_s=NEVER_S)  # a slow machine starts no thread
    assert 0 == len(pool)
    for _ in range(20):
        tasks = [Quick() for _ in range(10)]
        for task in tasks:
            pool.start(task)
        await until(lambda: all(task.ended.is_set() for task in tasks))  # noqa: B023
    assert 1 == len(pool)
    pool.close()


async def test_blocked_thread_does_not_block_other_tasks() -> None:
    """Each blocked task gets a thread, and there are no more threads than tasks."""
    pool = ThreadPool()
    held = [Held() for _ in range(9)]
    for task in held:
        pool.start(task)
    await until(lambda: all(task.started.is_set() for task in held))
    assert 9 == len({task.thread for task in held}) == len(pool)
    quick = Quick()
    pool.start(quick)
    await until(quick.ended.is_set)
    for task in held:
        task.go.set()
    await until(lambda: all(task.ended.is_set() for task in held))
    await until(lambda: pool._idle == len(pool))  # free a little later
    again = [Held() for _ in range(9)]
    for task in again:
        pool.start(task)
    await until(lambda: all(task.started.is_set() for task in again))
    assert len(pool) <= 10
    for task in again:
        task.go.set()
    pool.close()


async def test_following_task_runs_after_waiting_tasks() -> None:
    """A lane with many calls lets other lanes take their turn."""
    pool = ThreadPool(held_up_s=NEVER_S)  # no second thread starts
    order: list[str] = []

    class Named(Quick):
        def __init__(self, name: str, following: Named | None = None) -> None:
            super().__init__()
            self.name, self.following = name, following

        def run(self) -> Held | None:
            order.append(self.name)
            return super().run()

    last = Named("a2")
    gate = Held()
    pool.start(gate)
    await until(gate.started.is_set)
    pool.start(Named("a1", last))
    pool.start(Named("b1"))
    gate.go.set()
    await until(last.ended.is_set)
    assert ["a1", "b1", "a2"] == order
    pool.close()


async def test_idle_threads_end_and_start_again() -> None:
    """After some time without work there are no threads."""
    pool = ThreadPool(idle_s=0.02)
    for _ in range(3):
        held = [Held() for _ in range(4)]
        for task in held:
            pool.start(task)
        await until(lambda: all(task.started.is_set() for task in held))  # noqa: B023
        for task in held:
            task.go.set()
        await until(lambda: 0 == len(pool))


@pytest.mark.parametrize("pause_s", [0, 0.0005, 0.001])
async def test_task_at_the_end_of_an_idle_thread_is_run(
    pause_s: float,
) -> None:
    """A task gets a thread at any moment."""
    pool = ThreadPool(idle_s=0.0005)
    for _ in range(300):
        task = Quick()
        pool.start(task)
        await until(task.ended.is_set)
        await asyncio.sleep(pause_s)
    await until(lambda: 0 == len(pool))


async def test_close_ends_the_threads_after_their_work() -> None:
    """Started tasks are run, and a second close does nothing."""
    pool = ThreadPool()
    last = Held()
    first = Held(following=last)
    last.go.set()
    pool.start(first)
    pool.close()
    pool.close()
    first.go.set()
    await until(last.ended.is_set)
    await until(lambda: 0 == len(pool))


def test_threads_of_a_loop_end_with_it() -> None:
    """Each loop has one pool, whose threads end when the loop is gone."""

    async def use() -> ThreadPool:
        pool = threads.get_shared_pool()
        assert pool is threads.get_shared_pool()
        task = Quick()
        pool.start(task)
        await until(task.ended.is_set)
        return pool

    first, second = asyncio.run(use()), asyncio.run(use())
    assert first is not second
    ends = time.monotonic() + DEADLINE_S
    while len(first) or len(second):
        gc.collect()
        assert time.monotonic() < ends
        time.sleep(0.01)


async def test_many_tasks_from_many_lanes_are_all_run() -> None:
    """All tasks run, even if threads start, become idle and end all the time."""
    pool = ThreadPool(idle_s=0.001)
    done: list[int] = []

    class Chain:
        def __init__(self, left: int) -> None:
            self.left = left

        def run(self) -> Chain | None:
            if self.left % 7 == 0:
                time.sleep(0.002)
            done.append(self.left)
            return Chain(self.left - 1) if self.left > 1 else None

    for _ in range(50):
        pool.start(Chain(20))
        await asyncio.sleep(0.001)
    await until(partial(lambda: len(done) == 50 * 20))
    pool.close()
