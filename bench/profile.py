"""Where the host's time goes: samples of its main paths under load, by part of it.

    make bench-profile        or: python -m bench.profile [SECONDS]

py-spy looks some hundred times a second at what holds the interpreter's lock. A sample
belongs to the part that the innermost known frame is in. The summary goes between two
marks of docs/performance.md.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.environments import install_handlers
from bench.measure import cpu_seconds
from bench.processes import environment, free_ports, run_server
from bench.servers import HOST, Place
from bench.workloads import WORKLOADS, Job, Workload

__all__ = ["part_of", "summary", "table"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
PATHS = {"rest-small": 16, "rest-large": 4, "grpc-small": 16}
"""The workloads that are profiled, and their clients."""
RATE = 400
LEAST = 0.005
"""The share below which a part is not shown."""
BEGIN, END = "<!-- profile: begin -->", "<!-- profile: end -->"

PARTS = {
    "sockets, written by uvloop": ("HttpConnection.respond",),
    "the handler": ("oip_bench_handlers/",),
    "JSON and binary ↔ messages": (
        "edge/rest/codec", "edge/rest/large_json", "edge/common/field_checks",
        "oip_handler/datatypes",
    ),
    "protobuf ↔ messages": ("edge/grpc/codec", "edge/grpc/wire"),
    "routes, limits, errors": ("oip_host/edge/", "oip_host/models/registry"),
    "lanes: queue, threads, deadlines": ("oip_host/lanes/",),
    "totals and log line": ("telemetry/statistics", "host/hook_observer"),
    "checks of request and answer, messages": (
        "oip_host/", "oip_handler/", "pydantic/",
    ),
    "uvicorn": ("uvicorn/",),
    "event loop: sockets read, callbacks; gRPC's core": (
        "asyncio/", "uvloop/", "grpc/",
    ),
}  # fmt: skip
"""Each part, by what the function or the file of its frames contains; first found."""


def part_of(stack: str) -> str:
    """Return the part of a stack in py-spy's raw format, from the inside out."""
    for frame in reversed(stack.split(";")):
        for part, marks in PARTS.items():
            if any(mark in frame for mark in marks):
                return part
    return "other"


def summary(samples: Iterable[str]) -> dict[str, float]:
    """Return the share of each part in lines `frame;frame;… count`, largest first."""
    counts: Counter[str] = Counter()
    for line in samples:
        stack, _, count = line.rpartition(" ")
        counts[part_of(stack)] += int(count)
    total = counts.total() or 1
    return {part: count / total for part, count in counts.most_common()}


def _samples(workload: Workload, seconds: float, handlers: Path) -> Iterator[str]:
    """Start the host, load it, and look at it meanwhile."""
    with TemporaryDirectory(prefix="oip-bench-") as scratch:
        http_port, grpc_port, spare_port = free_ports(3)
        models = dict.fromkeys(workload.names, workload.handler)
        place = Place(
            Path(sys.executable), http_port, grpc_port, spare_port, Path(scratch),
            handlers, models,
        )  # fmt: skip
        with run_server(*HOST.command(place), http_port, place.directory) as server:
            job = Job(
                workload=workload.name, clients=PATHS[workload.name],
                seconds=3 * seconds, http_port=http_port, grpc_port=grpc_port,
                pid=server.pid,
            )  # fmt: skip
            load = subprocess.Popen(
                [sys.executable, "-m", "bench.load"],
                cwd=ROOT,
                env=environment({}),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            assert load.stdin is not None
            load.stdin.write(job.model_dump_json())
            load.stdin.close()
            before = cpu_seconds(server.pid)
            while cpu_seconds(server.pid) < before + 0.3:  # it is at work by now
                load.poll()
            try:
                yield from _record(server.pid, seconds, Path(scratch) / "raw")
            finally:
                load.kill()
                load.wait()


def _record(pid: int, seconds: float, file: Path) -> list[str]:
    program = Path(sys.executable).parent / "py-spy"
    subprocess.run(
        [program, "record", "--pid", str(pid), "--rate", str(RATE), "--gil",
         "--duration", str(round(seconds)), "--format", "raw", "--output", file],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return file.read_text().splitlines()


def main(seconds: float = 8.0) -> None:
    """Profile each path, and write the table."""
    handlers = install_handlers(ROOT / ".bench")
    shares = {
        name: summary(_samples(WORKLOADS[name], seconds, handlers)) for name in PATHS
    }
    from bench.report import replace  # late: the chart's libraries take a second

    replace(PAGE, BEGIN, END, table(shares))


def table(shares: dict[str, dict[str, float]]) -> str:
    """Return the shares of each part, a column for each path."""
    lines = [["part", *(f"`{name}`" for name in shares)], ["---"] * (1 + len(shares))]
    for part in (*PARTS, "other"):
        found = [path.get(part, 0.0) for path in shares.values()]
        if max(found) >= LEAST:
            lines.append([part, *(f"{share:.0%}" for share in found)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
