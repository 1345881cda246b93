"""The samples of a scrape of `/metrics`, and the changes between two scrapes."""

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
    """Return the text of `/metrics`, by a client cheaper than httpx."""
    with urlopen(f"{server.url}/metrics", timeout=DEADLINE_S) as answer:
        return str(answer.read(), "utf-8")


def families(text: str) -> list[Any]:
    """Return the families of a scrape, without the creation times of series."""
    return [
        family
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    ]


def series(text: str, *names: str) -> Series:
    """Return the samples with these names."""
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
    """Return the samples that changed, and by how much."""
    changes = {key: value - before.get(key, 0.0) for key, value in after.items()}
    assert before.keys() <= after.keys()
    return {key: change for key, change in changes.items() if change}
