"""Writes the generated part of the page: the circumstances, the tables, the chart."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from bench import tables
from bench.chart import draw
from bench.results import Results
from bench.servers import HOST, PEERS
from bench.summary import loads_of, of_load
from bench.workloads import WORKLOADS

__all__ = ["render", "replace", "text"]

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def render(results: Results, page: Path) -> None:
    """Put the tables between the marks of the page, and the chart beside it."""
    replace(page, BEGIN, END, text(results))
    page.with_suffix(".svg").write_text(draw(results))


def replace(page: Path, begin: str, end: str, generated: str) -> None:
    """Put text between two marks of a page, which stay there."""
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page.name}: expected {begin} and, after it, {end}")
    page.write_text(f"{before}{begin}\n\n{generated}\n\n{end}{after}")


def text(results: Results) -> str:
    """Return the generated part, as Markdown."""
    parts = [
        _circumstances(results),
        "### The workloads",
        _workloads(),
        "### Server CPU a request",
        tables.cost(results),
        _steadiness(results),
        "### Requests a second, and their 99th percentile",
        tables.rates(results),
        "### Batching, and code that blocks",
        tables.waiting(results),
        "### Start and memory",
        tables.starts(results),
        *_dashes(results),
        "### Versions",
        _versions(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _workloads() -> str:
    lines = ["| workload | by | clients | request |", "| --- | --- | --- | --- |"]
    for one in WORKLOADS.values():
        clients = " and ".join(map(str, one.clients))
        carrier = "REST" if one.rest else "gRPC"
        lines.append(f"| `{one.name}` | {carrier} | {clients} | {one.about} |")
    return "\n".join(lines)


def _circumstances(results: Results) -> str:
    about = results.about
    words = (
        f"Measured on {about.date}: {about.cpu}, {tables.plural(about.cores, 'core')}, "
        f"{about.memory_gb} GB, Python {about.python}; "
        f"{tables.plural(about.rounds, 'round')} of about {about.seconds:g} s a load."
    )
    others = [load.measured.other_cores for load in results.loads if load.measured]
    if not others:
        return words
    return (
        f"{words} Others on the machine kept {median(others):.2f} cores busy (median)."
    )


def _steadiness(results: Results) -> str:
    """How far the rounds of this host lie apart."""
    figures = [
        of_load(results, load, lambda m: m.cpu_us)[HOST.name]
        for load in loads_of(results, "cpu")
    ]
    spreads = [f.spread for f in figures if f and f.spread is not None]
    if not spreads:
        return ""
    return (
        f"Between rounds, the ratios of {HOST.name} lie {median(spreads):.0%} apart "
        f"(median of the rows; at most {max(spreads):.0%})."
    )


def _dashes(results: Results) -> list[str]:
    """Why there is an n/a in a table."""
    lines = []
    for server in results.about.packages:
        reasons: dict[str, list[str]] = {}
        for workload, reason in (
            PEERS[server].cannot if server in PEERS else {}
        ).items():
            reasons.setdefault(reason, []).append(f"`{workload}`")
        lines += [f"- {server}, {', '.join(w)}: {r}" for r, w in reasons.items()]
    return [
        "A server has no part (n/a) in a workload that it cannot do:",
        "\n".join(lines),
    ] * (len(lines) > 0)


def _versions(results: Results) -> str:
    return "\n".join(
        f"- {server}: "
        + (", ".join(f"{name} {v}" for name, v in found.items()) or "not installed")
        for server, found in results.about.packages.items()
    )
