"""The command line of the benchmark: what to measure, how often, and for which page.

make bench
make bench ARGS="--peers kserve,mlserver --workloads rest-small,grpc-small"
python bench/run.py --help
"""

from __future__ import annotations

import platform
import signal
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, TypeVar

import typer

# for `python bench/run.py`, which has the directory of the file on the path only
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.environments import install_handlers, install_server, versions
from bench.measure import cores, cpu_model, memory_gb
from bench.results import About, Load, Results, Start, read, save
from bench.rounds import Plan, run_round
from bench.servers import FLOOR, HOST, PEERS, Server
from bench.tables import plural
from bench.workloads import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")


def main(
    peers: Annotated[
        str, typer.Option(help=f"With commas, of {', '.join(PEERS)}; or none.")
    ] = "kserve",
    workloads: Annotated[
        str, typer.Option(help=f"With commas, of {', '.join(WORKLOADS)}; or all.")
    ] = "all",
    rounds: Annotated[
        int, typer.Option(min=1, help="How often everything is measured.")
    ] = 3,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="How long each load is to take.")
    ] = 2.0,
    envs: Annotated[
        Path,
        typer.Option(
            help="Where the environments of the peers are made, and kept.",
            show_default=".bench",
        ),
    ] = ROOT / ".bench",
    results: Annotated[
        Path,
        typer.Option(
            help="The file that keeps the records.",
            show_default="bench/results/latest.json",
        ),
    ] = ROOT / "bench" / "results" / "latest.json",
    page: Annotated[
        Path,
        typer.Option(
            help="The page that shows them, with its chart beside it.",
            show_default="docs/performance.md",
        ),
    ] = ROOT / "docs" / "performance.md",
    measure: Annotated[
        bool, typer.Option(help="Or only render the records that there are.")
    ] = True,
    report: Annotated[
        bool, typer.Option(help="Or leave the page and its chart as they are.")
    ] = True,
) -> None:
    """Measure oip-host beside its floor, a bare Python server, and beside its peers.

    A round starts each server, sends it every workload and stops it: the servers take
    turns. The exit code is 1 where a server does not start, or an answer has a wrong
    status or wrong numbers; the page is left as it is then.
    """
    if measure:
        wanted = [FLOOR, HOST, *_choose(peers, PEERS, "none")]
        found = _measure_all(
            wanted,
            _choose(workloads, WORKLOADS, "all"),
            rounds,
            seconds,
            envs.resolve(),
        )
        save(found, results)
        if found.failed:
            raise SystemExit("something failed, see above; the page is left as it is")
    if report:
        # late, so that no server shares pages with the libraries of the chart
        from bench.report import render

        render(read(results), page)


def _choose(text: str, known: dict[str, T], word: str) -> list[T]:
    """Return the entries that a list with commas names, in its own order."""
    if text == word:
        return list(known.values()) if word == "all" else []
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            expected = ", ".join([*known, word])
            raise typer.BadParameter(f"found {name!r}, expected some of {expected}")
    return [known[name] for name in names]


def _measure_all(
    wanted: list[Server],
    workloads: list[Workload],
    rounds: int,
    seconds: float,
    envs: Path,
) -> Results:
    """Install what is missing, then do all rounds."""
    handlers = install_handlers(envs)
    servers = [(one, install_server(one.name, one.steps, envs)) for one in wanted]
    installed = [(one, python) for one, python in servers if python]
    about = About(
        date=date.today().isoformat(),
        cpu=cpu_model(),
        cores=cores(),
        memory_gb=memory_gb(),
        python=platform.python_version(),
        rounds=rounds,
        seconds=seconds,
        packages={
            server.name: versions(python, server.packages) if python else {}
            for server, python in servers
        },
    )
    results = Results(about=about)

    def keep(record: Start | Load) -> None:
        print(_line(record), flush=True)
        if isinstance(record, Start):
            results.starts.append(record)
        else:
            results.loads.append(record)

    for number in range(1, rounds + 1):
        run_round(Plan(installed, workloads, seconds, handlers), number, keep)
    return results


def _line(record: Start | Load) -> str:
    """Return a line about a record."""
    if isinstance(record, Start):
        head = (
            f"round {record.round}, {record.server}, {plural(record.models, 'model')}"
        )
        if record.start_s is None:
            return f"{head}: did not start"
        return f"{head}: ready in {record.start_s:.2f} s, {record.pss_mb} MB"
    head = f"  {record.workload}, {plural(record.clients, 'client')}"
    if record.measured is None:
        return f"{head}: failed"
    one = record.measured
    return (
        f"{head}: {one.cpu_us:,.0f} µs of CPU, {one.rate:,.0f}/s, p99 {one.p99_ms} ms"
    )


def _stop(*_: object) -> None:
    raise SystemExit("stopped")  # and not at once, so that every server is stopped too


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(main)
    app()
