"""Queries of Prometheus, and their selectors, by a parser of PromQL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "oip-host.json").read_text())
ALERTS_FILE = ROOT / "deploy" / "prometheus" / "alerts.yaml"
_GROUPS = yaml.safe_load(ALERTS_FILE.read_text())["groups"]
ALERTS: list[dict[str, Any]] = [rule for group in _GROUPS for rule in group["rules"]]

_PARTS = ("lhs", "rhs", "expr", "param", "vector_selector")
_LISTED = re.compile(r"label_values\((?P<selector>\w+(\{.*\})?), (?P<label>\w+)\)")


@dataclass(frozen=True)
class Asked:
    """A selector of a query, with the functions around it, the nearest last."""

    name: str
    matchers: tuple[tuple[str, str], ...]
    """The names of labels, and the values that they are held against."""
    functions: tuple[str, ...]
    """The functions that it is an argument of."""
    labels: frozenset[str]
    """All labels that its samples need: those of matchers, of `by` and of `on`."""


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels, without its rows."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Return every query of the dashboard and of the alerts, by its place."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    return {**found, **{rule["alert"]: rule["expr"] for rule in ALERTS}}


def listed() -> dict[str, tuple[str, str]]:
    """Return the selector and label of each variable that lists values."""
    found = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            match = _LISTED.fullmatch(variable["query"]["query"])
            assert match is not None, variable
            found[variable["name"]] = match["selector"], match["label"]
    return found


def variables_of(expression: str) -> set[str]:
    """Return the dashboard's variables in a query, without Grafana's own."""
    return set(re.findall(r"\$(?!__)\{?(\w+)", expression))


def concrete(expression: str, interval: str = "5m") -> str:
    """Return the query as Grafana sends it, for all values of its variables."""
    text = expression.replace("$__rate_interval", interval)
    return re.sub(r"\$\{?\w+\}?", ".*", text)


def asked(expression: str) -> list[Asked]:
    """Return the selectors of a query; ValueError if it is invalid."""
    return list(_walk(promql.parse(concrete(expression)), (), frozenset()))


def _walk(
    node: Any, functions: tuple[str, ...], labels: frozenset[str]
) -> Iterator[Asked]:
    if isinstance(node, promql.VectorSelector):
        matchers = tuple((m.name, m.value) for m in node.matchers.matchers)
        needed = labels | {name for name, _ in matchers}
        yield Asked(node.name or "", matchers, functions, frozenset(needed))
        return
    if isinstance(node, promql.Call):
        functions = (*functions, node.func.name)
    labels = labels | _of_modifier(node)
    children = [getattr(node, part, None) for part in _PARTS]
    for child in (*children, *getattr(node, "args", ())):
        if child is not None:
            yield from _walk(child, functions, labels)


def _of_modifier(node: Any) -> frozenset[str]:
    """Return the labels that an operator keeps or matches by."""
    modifier = getattr(node, "modifier", None)
    if isinstance(modifier, promql.BinModifier):
        modifier = modifier.matching
    if modifier is None:
        return frozenset()
    assert str(modifier.type).endswith(("By", "Include")), modifier
    return frozenset(modifier.labels)
