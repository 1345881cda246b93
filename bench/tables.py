"""The tables of the page: a row for each load, a column for each server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.results import Results
from bench.servers import PEERS
from bench.summary import MANY, Figure, loads_of, of_load, of_start
from bench.workloads import Workload

__all__ = ["cost", "rates", "starts", "waiting"]

BUSY = 0.9
"""With so many cores, the load generator may be what limits the requests a second."""
Cells = Mapping[str, str]
"""The columns of each server that was measured."""


def cost(results: Results) -> str:
    """CPU a request, as a multiple of the floor."""
    rows = [
        _row(results, load, _cells(of_load(results, load, lambda m: m.cpu_us), _cost))
        for load in loads_of(results, "cpu")
    ]
    return _table(results, "workload", rows)


def _cost(figure: Figure) -> str:
    time = duration(figure.value / 1e6)
    return time if figure.ratio is None else f"{digits(figure.ratio)} ({time})"


def rates(results: Results) -> str:
    """Show requests a second, and the 99th percentile of their times."""
    rows = []
    for load in loads_of(results, "cpu"):
        busy = of_load(results, load, lambda m: m.generator_cores)
        least = _cells(busy, lambda f: "≥ " if f.value >= BUSY else "")
        rate = _cells(
            of_load(results, load, lambda m: m.rate), lambda f: digits(f.value)
        )
        p99 = _cells(of_load(results, load, lambda m: m.p99_ms), _milliseconds)
        cells = {name: f"{least[name]}{rate[name]}/s, {p99[name]}" for name in rate}
        rows.append(_row(results, load, cells))
    return _table(results, "workload", rows)


def waiting(results: Results) -> str:
    """Show requests a second where handlers wait, and the probe meanwhile."""
    rows = []
    for load in loads_of(results, "rate"):
        rate = of_load(results, load, lambda m: m.rate)
        shown = _cells(rate, lambda f: f"{digits(f.value)}/s{_beside(f)}")
        rows.append(_row(results, load, shown))
        live = of_load(results, load, lambda m: m.live_p99_ms)
        if any(live.values()):
            shown = _cells(live, lambda f: _milliseconds(f) + _beside(f))
            label = "`GET /v2/health/live` meanwhile, p99"
            rows.append(_row(results, load, shown, label))
    return _table(results, "workload", rows)


def starts(results: Results) -> str:
    """Seconds to readiness and idle memory, beside KServe."""
    rows = []
    for many in (False, True):
        numbers = {s.models for s in results.starts if (s.models >= MANY) == many}
        if not numbers:
            continue
        models = plural(max(numbers), "model")
        ready = of_start(results, many, lambda s: s.start_s)
        shown = _cells(ready, lambda f: duration(f.value) + _beside(f))
        workload = "many" if many else ""
        rows.append(_line(results, workload, f"start to ready, {models}", shown))
        memory = of_start(results, many, lambda s: s.pss_mb)
        shown = _cells(memory, lambda f: f"{f.value:.0f} MB{_beside(f)}")
        rows.append(_line(results, workload, f"idle memory, {models}", shown))
    return _table(results, "", rows)


# -- rows and cells -----------------------------------------------------------


def _cells(
    figures: Mapping[str, Figure | None], show: Callable[[Figure], str]
) -> dict[str, str]:
    return {name: show(figure) for name, figure in figures.items() if figure}


def _row(
    results: Results, load: tuple[Workload, int], cells: Cells, label: str = ""
) -> list[str]:
    workload, clients = load
    label = label or f"`{workload.name}`, {plural(clients, 'client')}"
    return _line(results, workload.name, label, cells)


def _line(results: Results, workload: str, label: str, cells: Cells) -> list[str]:
    """Return a row; the cell of a server without figures has the reason."""
    row = [label]
    for server, packages in results.about.packages.items():
        cannot = PEERS[server].cannot if server in PEERS else {}
        missing = "n/a" if workload in cannot else "failed"
        row.append(cells.get(server, missing if packages else "not installed"))
    return row


def _table(results: Results, corner: str, rows: Sequence[list[str]]) -> str:
    servers = list(results.about.packages)
    lines = [[corner, *servers], ["---", *("---:" for _ in servers)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return table if rows else "Not measured in this run."


# -- numbers ------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Three digits in the unit that fits."""
    if seconds >= 1:
        return f"{digits(seconds)} s"
    if seconds >= 1e-3:
        return f"{digits(seconds * 1e3)} ms"
    return f"{digits(seconds * 1e6)} µs"


def plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def digits(number: float) -> str:
    """Three digits, or all of those before the point."""
    places = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:,.{places}f}"


def _milliseconds(figure: Figure) -> str:
    return duration(figure.value / 1e3)


def _beside(figure: Figure) -> str:
    """Return the ratio in brackets, or nothing without one."""
    return "" if figure.ratio is None else f" ({digits(figure.ratio)})"
