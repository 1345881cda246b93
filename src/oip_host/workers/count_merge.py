"""Merging the metrics of several processes into those of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["Family", "MergedMetrics", "merge_families", "serialize_families"]

Family = dict[str, Any]
"""A metric family as JSON; its samples are [name, labels, value]."""

Rule = Callable[[Iterable[float]], float]

_STATE_TYPES = ("gauge", "gaugehistogram", "info", "stateset", "unknown")
"""Types that describe a process as it is; the others count what it has done."""
_RULES: dict[str, Rule] = {
    "oip_model_ready": min,  # ready if all are
    "oip_model_load_seconds": max,
    "oip_tls_certificate_expiry_timestamp_seconds": min,
    "process_start_time_seconds": min,
}
"""How to merge families whose values do not add up, by name."""
_RULES_BY_TYPE: dict[str, Rule] = {"info": max, "stateset": max}
_RULES_BY_ENDING: dict[str, Rule] = {"_created": min, "_info": max}
"""The same by type, and by the ending of a sample's name."""


class MergedMetrics(Collector):
    """A collector of families that were merged already."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._metrics = [_parse_family(family) for family in families]

    def collect(self) -> list[Metric]:
        """Return the families with their samples."""
        return self._metrics


def serialize_families(metrics: Iterable[Metric]) -> list[Family]:
    """Return families as JSON, without exemplars and timestamps."""
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


def _parse_family(family: Family) -> Metric:
    metric = Metric(
        family["name"], family["documentation"], family["type"], family["unit"]
    )
    for name, labels, value in family["samples"]:
        metric.add_sample(name, labels, value)
    return metric


def merge_families(
    living: Iterable[list[Family]], dead: Iterable[list[Family]] = ()
) -> list[Family]:
    """Merge the families of all processes; from dead ones only what they counted."""
    by_name: dict[str, list[Family]] = {}
    for families in living:
        for family in families:
            by_name.setdefault(family["name"], []).append(family)
    for families in dead:
        for family in families:
            if family["type"] not in _STATE_TYPES:
                by_name.setdefault(family["name"], []).append(family)
    return [_merge(families) for families in by_name.values()]


def _merge(families: list[Family]) -> Family:
    """Merge families of the same name."""
    first = families[0]
    series: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    labels_by_key: dict[Any, dict[str, str]] = {}
    for family in families:
        for name, labels, value in family["samples"]:
            key = name, tuple(sorted(labels.items()))
            series.setdefault(key, []).append(value)
            labels_by_key.setdefault(key, labels)
    samples = [
        [key[0], labels_by_key[key], _choose_rule(first, key[0])(values)]
        for key, values in series.items()
    ]
    return {**first, "samples": samples}


def _choose_rule(family: Family, sample: str) -> Rule:
    """Return how to merge the values of a sample."""
    for ending, rule in _RULES_BY_ENDING.items():
        if sample.endswith(ending):
            return rule
    by_type = _RULES_BY_TYPE.get(family["type"], math.fsum)
    return _RULES.get(family["name"], by_type)
