"""The thread pool of an event loop, which its lanes share: one works while it can.

A thread that is kept busy costs a fraction of one that is woken for each call. So the
calls of all models go to one thread for as long as it gets on; where a call holds it
up, those behind it get threads of their own within some milliseconds. There are never
more threads than calls that may run.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
import weakref
from collections import deque
from typing import Protocol

__all__ = ["IDLE_S", "Task", "ThreadPool", "get_shared_pool"]

IDLE_S = 60.0
"""Seconds after which a thread that was not needed ends."""
HELD_UP_S = 0.001
"""Seconds in one call after which a thread does not count for what waits."""


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, ThreadPool] = (
    weakref.WeakKeyDictionary()
)


def get_shared_pool() -> ThreadPool:
    """Return the pool of the running loop, which ends with it."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = ThreadPool()
        weakref.finalize(loop, pool.close)
    return pool


class Task(Protocol):
    """The work of a thread."""

    def run(self) -> Task | None:
        """Do the work, and return a task to queue behind those that wait."""


class ThreadPool:
    """A pool that grows only where calls are held up. `start` is called on the loop."""

    def __init__(self, idle_s: float = IDLE_S, held_up_s: float = HELD_UP_S) -> None:
        self._idle_s, self._held_up_s = idle_s, held_up_s
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes one thread
        self._lock = threading.Lock()
        # what follows is read and written under the lock
        self._ready: deque[Task] = deque()
        self._since: dict[int, float] = {}  # when each thread took up its task
        self._idle = 0
        self._ending = 0  # threads that shall end when there is nothing to do
        self._most = 0  # threads at work at once since the last trim
        # what follows belongs to the loop
        self._trimming = self._ticking = False

    def __len__(self) -> int:
        return len(self._since)

    def start(self, task: Task) -> None:
        """Run a task in some thread."""
        with self._lock:
            self._ready.append(task)
            nobody_works = self._idle == len(self._since)
            if nobody_works:
                self._engage(1)
        if not (nobody_works or self._ticking):
            self._ticking = True
            asyncio.get_running_loop().call_later(self._held_up_s, self._relieve)

    def _engage(self, threads: int) -> None:
        """Wake or start so many more threads; called under the lock."""
        for _ in range(threads):
            if self._idle:
                self._idle -= 1
                self._bell.put(None)
            else:
                thread = threading.Thread(
                    # in a copy of this context: KServe keeps settings in one
                    target=contextvars.copy_context().run,
                    args=(self._work,),
                    name="lanes",
                    daemon=True,
                )
                thread.start()
                assert thread.ident is not None
                # not held up before it has a task, however late the machine lets it run
                self._since[thread.ident] = float("inf")
        self._most = max(self._most, len(self._since) - self._idle)
        if self._since and not self._trimming:
            self._trimming = True
            asyncio.get_running_loop().call_later(self._idle_s, self._trim)

    def _relieve(self) -> None:
        """Engage more threads where every one is held up while tasks wait."""
        with self._lock:
            self._ticking = bool(self._ready)
            if not self._ready:
                return
            before = time.perf_counter() - self._held_up_s
            working = len(self._since) - self._idle
            held_up = sum(since < before for since in self._since.values())
            if held_up >= working:
                self._engage(min(len(self._ready), max(held_up, 1)))
        asyncio.get_running_loop().call_later(self._held_up_s, self._relieve)

    def _work(self) -> None:
        me = threading.get_ident()
        following: Task | None = None
        while True:
            with self._lock:
                if following is not None:
                    self._ready.append(following)
                task = self._ready.popleft() if self._ready else None
                if task is not None:
                    self._since[me] = time.perf_counter()
                elif self._ending:
                    self._ending -= 1
                    del self._since[me]
                    return
                else:
                    self._since[me] = float("inf")
                    self._idle += 1
            if task is None:
                following = None
                self._bell.get()
            else:
                following = task.run()
            del task  # what it holds is not kept while there is nothing to do

    def _trim(self) -> None:
        """End the threads that were not needed since the last trim."""
        with self._lock:
            self._end(len(self._since) - self._most)
            self._most = len(self._since) - self._idle
            self._trimming = bool(self._since)
        if self._trimming:
            asyncio.get_running_loop().call_later(self._idle_s, self._trim)

    def _end(self, threads: int) -> None:
        """End so many idle threads; called under the lock."""
        ending = min(threads, self._idle)
        self._ending += ending
        self._idle -= ending
        for _ in range(ending):
            self._bell.put(None)

    def close(self) -> None:
        """End the threads, each when it has nothing left to do."""
        with self._lock:
            ending = len(self._since) - self._ending
            rung = self._idle
            self._ending += ending
            self._idle = 0
        for _ in range(rung):
            self._bell.put(None)
