"""One round: each server in turn is started, sent its loads, and stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from bench.measure import pss_mb
from bench.processes import environment, free_ports, run_server
from bench.results import Load, Measured, Start
from bench.servers import Place, Server
from bench.workloads import Job, Workload

__all__ = ["Plan", "run_round"]

ROOT = Path(__file__).parent.parent
IDLE_S = 1.0
LOAD_DEADLINE_S = 120.0


Keep = Callable[[Start | Load], None]
"""A function that gets each record as it comes."""


@dataclass(frozen=True)
class Plan:
    """The servers and workloads of each round."""

    servers: Sequence[tuple[Server, Path]]
    """Each with the Python of its environment."""
    workloads: Sequence[Workload]
    seconds: float
    """How long each load is to take."""
    handlers: Path
    """Where the plugin with the handlers is installed."""


@dataclass(frozen=True)
class Visit:
    """One start of a server: the handler of each model, and what they are asked."""

    server: Server
    python: Path
    models: Mapping[str, str]
    loads: Sequence[tuple[Workload, int]]
    """Each with the number of its clients."""


def run_round(plan: Plan, number: int, keep: Keep) -> None:
    """Do every start and load of a round."""
    for server, python in plan.servers:
        for visit in _visits(server, python, plan.workloads):
            _measure(plan, visit, number, keep)


def _visits(
    server: Server, python: Path, workloads: Iterable[Workload]
) -> Iterator[Visit]:
    """One with every handler that is asked; one for each workload of many models."""
    able = [w for w in workloads if w.name not in server.cannot]
    together = [w for w in able if not w.models]
    for group in [together, *([w] for w in able if w.models)]:
        models = {name: w.handler for w in group for name in w.names}
        if models:
            loads = [(w, clients) for w in group for clients in w.clients]
            yield Visit(server, python, models, loads)


def _measure(plan: Plan, visit: Visit, number: int, keep: Keep) -> None:
    name = visit.server.name
    start = Start(round=number, server=name, models=len(visit.models))
    with ExitStack() as stack:
        scratch = stack.enter_context(TemporaryDirectory(prefix="oip-bench-"))
        http_port, grpc_port, spare_port = free_ports(3)
        place = Place(
            python=visit.python,
            http_port=http_port,
            grpc_port=grpc_port,
            spare_port=spare_port,
            directory=Path(scratch),
            handlers=plan.handlers,
            models=visit.models,
        )
        try:
            process = stack.enter_context(
                run_server(*visit.server.command(place), http_port, place.directory)
            )
        except OSError as error:
            print(f"{name} {error}", file=sys.stderr)
            keep(start)
            return
        time.sleep(IDLE_S)
        start.start_s = round(process.start_s, 3)
        start.pss_mb = round(pss_mb(process.pid), 1)
        keep(start)
        for workload, clients in visit.loads:
            job = Job(
                workload=workload.name,
                clients=clients,
                seconds=plan.seconds,
                http_port=http_port,
                grpc_port=grpc_port,
                pid=process.pid,
            )
            measured = _send(job)
            keep(
                Load(
                    round=number,
                    server=name,
                    workload=workload.name,
                    clients=clients,
                    measured=measured,
                )
            )


def _send(job: Job) -> Measured | None:
    """Run the load generator; return None and print a line if it fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.load"],
            input=job.model_dump_json(),
            cwd=ROOT,
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=LOAD_DEADLINE_S + 10 * job.seconds,
            check=True,
        )
        return Measured.model_validate_json(done.stdout)
    except (subprocess.SubprocessError, ValidationError) as error:
        told = str(getattr(error, "stderr", None) or error).splitlines()
        print(*told[-10:], sep="\n", file=sys.stderr)
        return None
