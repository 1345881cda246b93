"""The metrics of several processes as those of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["Family", "Metrics", "packed", "summed"]

Family = dict[str, Any]
"""A metric family as JSON has it; its samples are [name, labels, value]."""

Rule = Callable[[Iterable[float]], float]

_OF_THE_LIVING = ("gauge", "gaugehistogram", "info", "stateset", "unknown")
"""Types that tell of a process as it is; the others count what it has done."""
_RULES: dict[str, Rule] = {
    "oip_model_ready": min,  # ready where all are
    "oip_model_load_seconds": max,
    "oip_tls_certificate_expiry_timestamp_seconds": min,
    "process_start_time_seconds": min,
}
"""How families are made one whose values are not to be added, by name."""
_RULES_OF_TYPES: dict[str, Rule] = {"info": max, "stateset": max}
_RULES_OF_ENDINGS: dict[str, Rule] = {"_created": min, "_info": max}
"""The same by the type, and by how the name of a sample ends."""


class Metrics(Collector):
    """Families that are given out as they are."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._metrics = [_unpacked(family) for family in families]

    def collect(self) -> list[Metric]:
        """The families with their samples."""
        return self._metrics


def packed(metrics: Iterable[Metric]) -> list[Family]:
    """Families as JSON, without exemplars and times."""
    return [
        {
            "name": metric.name,
            "documentation": metric.documentation,
            "type": metric.type,
            "unit": metric.unit,
            "samples": [[s.name, s.labels, s.value] for s in metric.samples],
        }
        for metric in metrics
    ]


def _unpacked(family: Family) -> Metric:
    metric = Metric(
        family["name"], family["documentation"], family["type"], family["unit"]
    )
    for name, labels, value in family["samples"]:
        metric.add_sample(name, labels, value)
    return metric


def summed(
    living: Iterable[list[Family]], dead: Iterable[list[Family]] = ()
) -> list[Family]:
    """The families of all processes; of the dead only what they have counted."""
    alike: dict[str, list[Family]] = {}
    for families in living:
        for family in families:
            alike.setdefault(family["name"], []).append(family)
    for families in dead:
        for family in families:
            if family["type"] not in _OF_THE_LIVING:
                alike.setdefault(family["name"], []).append(family)
    return [_sum(families) for families in alike.values()]


def _sum(families: list[Family]) -> Family:
    """One family of several with the same name."""
    first = families[0]
    series: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    labelled: dict[Any, dict[str, str]] = {}
    for family in families:
        for name, labels, value in family["samples"]:
            key = name, tuple(sorted(labels.items()))
            series.setdefault(key, []).append(value)
            labelled.setdefault(key, labels)
    samples = [
        [key[0], labelled[key], _rule(first, key[0])(values)]
        for key, values in series.items()
    ]
    return {**first, "samples": samples}


def _rule(family: Family, sample: str) -> Rule:
    """How the values of a sample are made one."""
    for ending, rule in _RULES_OF_ENDINGS.items():
        if sample.endswith(ending):
            return rule
    by_type = _RULES_OF_TYPES.get(family["type"], math.fsum)
    return _RULES.get(family["name"], by_type)
