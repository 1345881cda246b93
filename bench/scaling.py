"""The same model in one process, in batches, in workers and in replicas, side by side.

    make bench-scaling        or: python -m bench.scaling --rounds 3 --seconds 6

Each round starts `oip-host serve` once for each way of `ways.py`, loads it for some
seconds, and stops it. What counts is the ratio to the first way in the same round. The
tables go between two marks of docs/scaling.md.
"""

from __future__ import annotations

import platform
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from bench.environments import install_handlers, versions
from bench.measure import cores, cpu_model, memory_gb
from bench.sample import Sample, take_sample
from bench.summary import Figure, compare_rounds
from bench.tables import digits, duration, plural
from bench.ways import SUBJECTS, Subject

__all__ = ["Samples", "figures", "list_missing", "table"]

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- side by side: begin -->", "<!-- side by side: end -->"
NEEDED = {
    "torch": "torch",
    "oip_handler_alexnet": "oip-handler-alexnet",
    "ray": "ray[serve]",
}
"""The modules that must be there, and the packages that bring them."""

Samples = Mapping[str, Mapping[int, Sample]]
"""The results of each way, by round."""


def main(
    rounds: Annotated[
        int, typer.Option(min=1, help="How often everything is measured.")
    ] = 3,
    seconds: Annotated[
        float, typer.Option(min=0.5, help="How long each load takes.")
    ] = 6.0,
    clients: Annotated[
        int, typer.Option(min=1, help="Connections, with one request in flight each.")
    ] = 16,
    page: Annotated[
        Path,
        typer.Option(
            help="The page that shows the tables.", show_default="docs/scaling.md"
        ),
    ] = ROOT / "docs" / "scaling.md",
    report: Annotated[bool, typer.Option(help="Or leave the page as it is.")] = True,
) -> None:
    """Measure a model in one process, in batches, in workers and in replicas.

    The exit code is 1 where a host does not start, or an answer has a wrong status or
    wrong tensors; the page is left as it is then.
    """
    packages = list_missing()
    if packages:
        names = ", ".join(packages)
        raise SystemExit(
            f"not installed: {names}; `make bench-scaling` installs what it needs"
        )
    found = _rounds(rounds, seconds, clients)
    load = f"{plural(rounds, 'round')} of {seconds:g} s a load"
    text = "\n\n".join(
        [
            f"{_machine()}; {load}, {plural(clients, 'connection')}. "
            f"{_neighbours(found)}",
            *(f"### {one.title}\n\n{table(one, found[one.title])}" for one in SUBJECTS),
        ]
    )
    print(text)
    if report:
        # late: the libraries of the other page's chart take a second
        from bench.report import replace

        replace(page, BEGIN, END, text)


def list_missing() -> list[str]:
    """Return the packages that are needed and not installed."""
    return [package for module, package in NEEDED.items() if not find_spec(module)]


def _rounds(rounds: int, seconds: float, clients: int) -> dict[str, Samples]:
    """Return the samples of each subject; the ways take turns in each round."""
    handlers = install_handlers(ROOT / ".bench")
    found: dict[str, dict[str, dict[int, Sample]]] = {
        one.title: {way.name: {} for way in one.ways} for one in SUBJECTS
    }
    for number in range(1, rounds + 1):
        for subject in SUBJECTS:
            request = subject.request()
            for way in subject.ways:
                arguments = [*subject.arguments, *way.arguments]
                head = f"round {number}, {subject.title}, {way.name}"
                try:
                    one = take_sample(
                        arguments, handlers, request, clients=clients, seconds=seconds
                    )
                except (OSError, ValueError, LookupError) as error:
                    raise SystemExit(f"{head}: {error}") from error
                print(f"{head}: {_line(one)}", flush=True)
                found[subject.title][way.name][number] = one
    return dict(found)


def _line(one: Sample) -> str:
    """Return a line about a sample."""
    shown = (f"{show(value(one))} {name}" for name, (value, show) in COLUMNS.items())
    return f"{', '.join(shown)}; others kept {one.load.other_cores:.2f} cores busy"


# -- the tables ---------------------------------------------------------------

Value = Callable[[Sample], float]
COLUMNS: dict[str, tuple[Value, Callable[[float], str]]] = {
    "requests/s": (lambda one: one.load.rate, digits),
    "CPU a request": (lambda one: one.load.cpu_s, duration),
    "memory": (lambda one: one.memory_mb, lambda value: f"{value:,.0f} MB"),
    "start to ready": (lambda one: one.start_s, duration),
}


def figures(subject: Subject, samples: Samples, value: Value) -> dict[str, Figure]:
    """Return the figure of each way, beside the first one in the same round."""
    first = subject.ways[0].name
    base = {number: value(one) for number, one in samples[first].items()}
    found = {}
    for name, rounds in samples.items():
        values = {number: value(one) for number, one in rounds.items()}
        figure = compare_rounds(values, {} if name == first else base)
        if figure:
            found[name] = figure
    return found


def table(subject: Subject, samples: Samples) -> str:
    """Return a row for each way: medians, and in brackets those of the ratios."""
    columns = [
        (figures(subject, samples, value), show) for value, show in COLUMNS.values()
    ]
    lines = [["", "set", *COLUMNS], ["---", "---", *["---:"] * len(COLUMNS)]]
    for way in subject.ways:
        given = " ".join(f"`{argument}`" for argument in way.arguments) or "nothing"
        cells = [_cell(found[way.name], show) for found, show in columns]
        lines.append([way.name, given, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(figure: Figure, show: Callable[[float], str]) -> str:
    ratio = "" if figure.ratio is None else f" ({digits(figure.ratio)})"
    return show(figure.value) + ratio


def _machine() -> str:
    """When, where and with what was measured."""
    found = versions(Path(sys.executable), ["torch", "ray"])
    packages = ", ".join(f"{name} {found[name]}" for name in ("torch", "ray"))
    return (
        f"Measured on {date.today().isoformat()}: {cpu_model()}, "
        f"{plural(cores(), 'core')}, {memory_gb()} GB, "
        f"Python {platform.python_version()}, {packages}"
    )


def _neighbours(found: Mapping[str, Samples]) -> str:
    """Describe what else kept the cores busy."""
    every = [
        one
        for samples in found.values()
        for rounds in samples.values()
        for one in rounds.values()
    ]
    clients = median(one.load.client_cores for one in every)
    others = [one.load.other_cores for one in every]
    return (
        f"The clients kept {clients:.2f} cores busy (median), others on the machine "
        f"{median(others):.2f} (at most {max(others):.2f})."
    )


def _stop(*_: object) -> None:
    raise SystemExit("stopped")  # and not at once, so that every host is stopped too


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(main)
    app()
