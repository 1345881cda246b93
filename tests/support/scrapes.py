"""What a scrape of `/metrics` says, and how one differs from another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from support.process import DEADLINE_S, Server

Key = tuple[str, ...]
Series = dict[Key, float]
"""Samples by their name and the values of their labels, in the order of their names."""


def scrape(server: Server) -> str:
    """What `/metrics` answers, without what a client costs that can do more."""
    with urlopen(f"{server.url}/metrics", timeout=DEADLINE_S) as answer:
        return str(answer.read(), "utf-8")


def families(text: str) -> list[Any]:
    """The families of a scrape, without the times at which series were made."""
    return [
        family
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    ]


def series(text: str, *names: str) -> Series:
    """The samples of some names."""
    lines = [line for line in text.splitlines() if line.startswith(names)]
    return {
        (sample.name, *_values(sample.labels)): sample.value
        for family in text_string_to_metric_families("\n".join(lines))
        for sample in family.samples
        if sample.name in names
    }


def _values(labels: Mapping[str, str]) -> list[str]:
    return [labels[name] for name in sorted(labels)]


def risen(before: Series, after: Series) -> Series:
    """By how much which samples have changed."""
    changes = {key: value - before.get(key, 0.0) for key, value in after.items()}
    assert before.keys() <= after.keys()
    return {key: change for key, change in changes.items() if change}
