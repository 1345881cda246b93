"""One start and one load of `oip-host serve`, and what they cost.

For `scaling.py`, which compares ways to serve: a load takes a time and not a number of
requests, since with several processes the last requests are not spread evenly. Who else
works on the machine takes more from two processes than from one, so a load that is
disturbed is repeated, and the one that is least disturbed counts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import uvloop

from bench.clients import Connection
from bench.measure import busy_seconds, cpu_seconds, pss_mb
from bench.processes import free_ports, run_server
from bench.ways import Request

__all__ = ["Figures", "Sample", "take_sample"]

PROGRAM = str(Path(sys.executable).parent / "oip-host")
WARM_UP_S = 2.0
QUIET_CORES = 0.1
"""With less than that of others on the machine, a load is not disturbed."""
TRIES = 4


class Figures(NamedTuple):
    """The figures of one load."""

    rate: float
    """Requests a second."""
    cpu_s: float
    """Of all processes of the host, a request."""
    client_cores: float
    other_cores: float
    """CPU of everybody else on the machine, a second."""


class Sample(NamedTuple):
    """The figures of one start and its load."""

    start_s: float
    """From the start of the process to the first 200 of /v2/health/ready."""
    memory_mb: float
    """PSS of all processes of the host, after the load."""
    load: Figures


def take_sample(
    arguments: list[str],
    handlers: Path,
    request: Request,
    *,
    clients: int,
    seconds: float,
) -> Sample:
    """Start a host, load it, stop it.

    Raises OSError where it does not start or an answer has another status than 200, and
    ValueError or LookupError where an answer is not as it should be.
    """
    http_port, grpc_port = free_ports(2)
    ports = [f"--http_port={http_port}", f"--grpc_port={grpc_port}"]
    options = ["--bind=127.0.0.1", "--drain_delay_s=0", *ports, *arguments]
    with (
        TemporaryDirectory(prefix="oip-bench-") as scratch,
        run_server(
            [PROGRAM, "serve", *options],
            {"PYTHONPATH": str(handlers)},
            http_port,
            Path(scratch),
        ) as host,
    ):
        load = Load(request, host.pid)
        found = uvloop.run(load.run(http_port, clients, seconds))
        return Sample(host.start_s, pss_mb(host.pid), found)


class Load:
    """Clients with a connection each and one request in flight."""

    def __init__(self, request: Request, pid: int) -> None:
        self._request = request
        self._pid = pid
        self._answers = 0
        self._enough = False

    async def run(self, port: int, clients: int, seconds: float) -> Figures:
        """Warm up, and measure until nobody disturbs it or tries are used up."""
        connections = [await Connection().open(port) for _ in range(clients)]
        asking = [asyncio.create_task(self._client(one)) for one in connections]
        await _unless_one_fails(asking, WARM_UP_S)
        found = await self._window(asking, seconds)
        for _ in range(TRIES - 1):
            if found.other_cores > QUIET_CORES:
                other = await self._window(asking, seconds)
                found = min(found, other, key=lambda one: one.other_cores)
        self._enough = True
        await asyncio.gather(*asking)
        return found

    async def _window(
        self, asking: list[asyncio.Task[None]], seconds: float
    ) -> Figures:
        """Return what is done within some seconds, and its cost."""
        before = self._marks()
        await _unless_one_fails(asking, seconds)
        spent, answers, cpu, own, busy = (self._marks() - before).tolist()
        if not answers:
            raise OSError(f"no answer within {seconds:g} s")
        others = max(0.0, busy - own - cpu) / spent
        return Figures(answers / spent, cpu / answers, own / spent, others)

    async def _client(self, connection: Connection) -> None:
        while not self._enough:
            answer = await connection.ask(self._request.head, self._request.body)
            self._request.check(answer)
            self._answers += 1
        connection.close()

    def _marks(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Time, answers, and CPU seconds of host, clients and machine so far."""
        clock = [time.perf_counter(), self._answers, cpu_seconds(self._pid)]
        return np.array([*clock, time.process_time(), busy_seconds()])


async def _unless_one_fails(asking: list[asyncio.Task[None]], seconds: float) -> None:
    """Let the clients ask for so long; raises what the first that fails raises."""
    done, _ = await asyncio.wait(
        asking, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
    )
    for task in done:
        task.result()
