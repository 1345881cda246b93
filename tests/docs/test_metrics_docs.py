"""The metrics page lists exactly what a running host exposes."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any

from oip_handler import errors
from support.documents import page, plain, quoted, tables
from support.monitored import monitored
from support.queries import ALERTS
from support.scrapes import families

PAGE = "metrics.md"
Listed = dict[str, tuple[str, tuple[str, ...]]]
"""Type and labels of metrics by name."""


def shown() -> Listed:
    """Return the metrics that the page lists."""
    return {
        plain(name): (kind, tuple(sorted(quoted(labels))))
        for name, kind, labels, *_ in tables(PAGE)["metric|type"]
    }


def given(text: str) -> Listed:
    """Return the metrics of a scrape; a counter is named after its sample."""
    return {
        name_of(family): (family.type, labels_of(family)) for family in families(text)
    }


def name_of(family: Any) -> str:
    return f"{family.name}_total" if family.type == "counter" else str(family.name)


def labels_of(family: Any) -> tuple[str, ...]:
    """Return the labels that all samples of a family have."""
    assert family.samples, f"nothing made a sample of {family.name}"
    found = {tuple(sorted(set(sample.labels) - {"le"})) for sample in family.samples}
    (labels,) = found
    return labels


def test_every_metric_is_listed(tmp_path: Path) -> None:
    """The names, types and labels on the page are those of a running host."""
    with monitored(tmp_path) as host:
        assert shown() == given(host.scrape())


def test_every_outcome_is_listed() -> None:
    """The outcomes are the error classes, `ok` and `Cancelled`."""
    rows = tables(PAGE)["outcome|when"]
    classes = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.OIPError)
    }
    names = [name for row in rows for name in quoted(row[0])]
    assert sorted({*classes, "ok", "Cancelled"}) == sorted(names)


def test_status_decides_whose_fault_an_outcome_is() -> None:
    """Statuses below 500 and 501 are the client's fault, the others the server's."""
    for outcomes, _, whose in tables(PAGE)["outcome|when"]:
        for name in quoted(outcomes):
            if kind := getattr(errors, name, None):
                is_servers = kind.http_status >= 500 and kind.http_status != 501
                assert whose == ("the server's" if is_servers else "the client's"), name


def test_reasons_have_the_statuses_shown() -> None:
    """The reasons that are not error classes are names of HTTP statuses."""
    rows = tables(PAGE)["reason|status"]
    assert len(rows) == 6
    for name, status, _ in rows:
        assert HTTPStatus[plain(name)] == int(status)


def test_every_alert_is_listed() -> None:
    """Each alert is listed with its severity and how long it has to last."""
    rows = tables(PAGE)["alert|severity"]
    expected = [(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS]
    assert expected == [(plain(name), severity) for name, severity, _ in rows]
    for rule, (_, _, words) in zip(ALERTS, rows, strict=True):
        minutes = rule.get("for", "").removesuffix("m")
        if minutes.isdigit() and rule["alert"] != "OIPHandlerFaults":
            assert f"for {minutes} minutes" in words


def test_other_pages_link_to_the_metrics_page() -> None:
    """The index and the architecture page link to the metrics page."""
    for name in ("index.md", "architecture.md"):
        assert "metrics.md" in page(name)
