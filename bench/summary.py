"""Figures out of records: medians over the rounds, and ratios within them.

A ratio compares two servers in the same round, minutes apart; the figure is the median
of the ratios of all rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from bench.results import Measured, Results, Start
from bench.servers import FLOOR
from bench.workloads import WORKLOADS, Workload

__all__ = ["Figure", "compare_rounds", "loads_of", "of_load", "of_start"]

MANY = 100
"""So many models are many: such a start is told apart from the others."""


@dataclass(frozen=True)
class Figure:
    """A median, and the median of its ratios to another server."""

    value: float
    ratio: float | None = None
    """None where the other server was not measured."""
    spread: float | None = None
    """How far the ratios lie apart, as a part of their median; None for one round."""


def loads_of(results: Results, counts: str) -> list[tuple[Workload, int]]:
    """Return the workloads that were sent, each with its numbers of clients."""
    sent = {(load.workload, load.clients) for load in results.loads}
    return [
        (workload, clients)
        for workload in WORKLOADS.values()
        for clients in workload.clients
        if (workload.name, clients) in sent and workload.counts == counts
    ]


def compare_rounds(
    values: Mapping[int, float], base: Mapping[int, float]
) -> Figure | None:
    """Compare a server with another by round; return None without values."""
    if not values:
        return None
    ratios = [value / base[n] for n, value in values.items() if base.get(n)]
    if not ratios:
        return Figure(median(values.values()))
    middle = median(ratios)
    apart = (max(ratios) - min(ratios)) / middle if len(ratios) > 1 else None
    return Figure(median(values.values()), middle, apart)


def of_load(
    results: Results,
    load: tuple[Workload, int],
    value: Callable[[Measured], float | None],
) -> dict[str, Figure | None]:
    """Compare every server with the floor."""
    workload, clients = load
    rounds: dict[str, dict[int, float]] = {name: {} for name in results.about.packages}
    for one in results.loads:
        if (one.workload, one.clients) == (workload.name, clients) and one.measured:
            found = value(one.measured)
            if found is not None:
                rounds[one.server][one.round] = found
    return _compare_all(rounds, FLOOR.name)


def of_start(
    results: Results, many: bool, value: Callable[[Start], float | None]
) -> dict[str, Figure | None]:
    """Compare every server's starts, with many models or few, with KServe."""
    rounds: dict[str, dict[int, float]] = {name: {} for name in results.about.packages}
    for one in results.starts:
        found = value(one)
        if (one.models >= MANY) == many and found is not None:
            rounds[one.server][one.round] = found
    return _compare_all(rounds, "kserve")


def _compare_all(
    rounds: dict[str, dict[int, float]], base: str
) -> dict[str, Figure | None]:
    return {
        name: compare_rounds(values, {} if name == base else rounds.get(base, {}))
        for name, values in rounds.items()
    }
