"""The load generator: clients that ask and wait, each with one request in flight.

    python -m bench.load < job.json > measured.json

It is a process of its own, so that its work is neither the server's nor that of the
program that starts servers. The first answer is decoded and compared with the expected
numbers; the status of every answer is looked at.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Iterable, Iterator
from itertools import cycle, islice

import grpc
import httptools
import uvloop

from bench.bodies import check
from bench.clients import Connection, Send, clients_of, get
from bench.measure import busy_seconds, cpu_seconds
from bench.results import Measured
from bench.workloads import WORKLOADS, Job

__all__ = ["Tally", "percentile"]

FAULTS = (OSError, ValueError, LookupError, grpc.RpcError, httptools.HttpParserError)
PROBE_PAUSE_S = 0.02


class Tally:
    """The times of what was answered with 200 or OK, and what else happened."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.errors: list[str] = []

    async def keep(self, answer: Awaitable[bytes]) -> None:
        """Wait for an answer and keep its time, or its error."""
        started = time.perf_counter()
        try:
            await answer
        except FAULTS as error:
            self.errors.append(repr(error))
        else:
            self.times.append(time.perf_counter() - started)


async def fire(clients: list[Send], names: Iterable[str]) -> tuple[Tally, float]:
    """Ask each name once, each client with one request in flight; and the seconds."""
    todo, tally = iter(names), Tally()

    async def client(send: Send, todo: Iterator[str]) -> None:
        for name in todo:
            await tally.keep(send(name))

    started = time.perf_counter()
    await asyncio.gather(*(client(send, todo) for send in clients))
    return tally, time.perf_counter() - started


async def warm_up(clients: list[Send], names: list[str], wanted_s: float) -> int:
    """Ask for a third of the wanted time, each model at least once.

    Returns how many requests take the whole of it.
    """
    count, spent = max(len(clients), len(names)), 0.0
    while True:
        tally, seconds = await fire(clients, islice(cycle(names), count))
        if tally.errors:
            raise OSError(f"{len(tally.errors)} errors: {tally.errors[0]}")
        rate, spent = count / seconds, spent + seconds
        if spent >= wanted_s / 3:
            return max(math.ceil(rate * wanted_s), len(clients))
        count = min(math.ceil(rate * wanted_s / 3), 20 * count)


async def probe(port: int, tally: Tally, enough: asyncio.Event) -> None:
    """Ask again and again whether the server is live; the last answer is awaited."""
    connection = await Connection().open(port)
    while not enough.is_set():
        await tally.keep(connection.ask(get("/v2/health/live")))
        await asyncio.sleep(PROBE_PAUSE_S)
    connection.close()


def percentile(times: list[float], percent: float) -> float:
    """Return the smallest of the times that so many percent do not exceed."""
    return sorted(times)[math.ceil(len(times) * percent / 100) - 1]


async def measure(job: Job) -> Measured:
    """Check an answer, warm up, then ask so many times and see what it costs."""
    workload = WORKLOADS[job.workload]
    names = workload.names
    async with clients_of(job) as clients:
        check(workload, await clients[0](names[0]))
        count = await warm_up(clients, names, job.seconds)
        live, enough = Tally(), asyncio.Event()
        asking = [probe(job.http_port, live, enough)] if workload.probe else []
        probes = [asyncio.create_task(one) for one in asking]
        busy, own, cpu = busy_seconds(), time.process_time(), cpu_seconds(job.pid)
        tally, seconds = await fire(clients, islice(cycle(names), count))
        cpu = cpu_seconds(job.pid) - cpu
        own, busy = time.process_time() - own, busy_seconds() - busy
        enough.set()
        await asyncio.gather(*probes)
    errors = tally.errors + live.errors
    if errors:
        raise OSError(f"{len(errors)} errors: {errors[0]}")
    return Measured(
        requests=count,
        seconds=round(seconds, 4),
        cpu_us=round(cpu / count * 1e6, 1),
        p50_ms=round(percentile(tally.times, 50) * 1e3, 3),
        p99_ms=round(percentile(tally.times, 99) * 1e3, 3),
        live_p99_ms=round(percentile(live.times, 99) * 1e3, 3) if live.times else None,
        generator_cores=round(own / seconds, 2),
        other_cores=round(max(0.0, busy - own - cpu) / seconds, 2),
    )


def main() -> None:
    """Read the job, print what was measured; exit code 1 and a line if it failed."""
    job = Job.model_validate_json(sys.stdin.read())
    try:
        print(uvloop.run(measure(job)).model_dump_json())
    except FAULTS as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
