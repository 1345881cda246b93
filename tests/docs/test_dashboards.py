"""The dashboard and the alerts query what a running host exposes, and alerts fire.

Tests that need Prometheus or promtool are skipped if it is not installed.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from oip_handler import errors
from oip_host.hookspecs import State
from support.documents import ROOT, anchors
from support.monitored import Monitored, monitored
from support.process import run, wait_for
from support.queries import (
    ALERTS,
    ALERTS_FILE,
    DASHBOARD,
    Asked,
    asked,
    concrete,
    listed,
    panels,
    queries,
    variables_of,
)
from support.scrapes import families

QUERIES = queries()
EXTERNAL = {"job", "instance", "namespace"}
"""Labels that Prometheus adds to whatever it scrapes."""
COUNTING = {"rate", "increase"}
"""The functions for what only goes up."""
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.OIPError)
}
FAULTS = {
    name
    for name, kind in CLASSES.items()
    if kind.http_status >= 500 and name != "NotSupported"
}
"""The outcomes that are no fault of a client."""

by_query = pytest.mark.parametrize("where", QUERIES)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    with monitored(tmp_path_factory.mktemp("monitored")) as found:
        yield found


@pytest.fixture(scope="module")
def samples(host: Monitored) -> dict[str, tuple[str, set[str]]]:
    """The type and labels of each sample of a scrape, by name."""
    found: dict[str, tuple[str, set[str]]] = {}
    for family in families(host.scrape()):
        for sample in family.samples:
            found[sample.name] = family.type, set(sample.labels)
    return {**found, "up": ("gauge", set())}


Samples = dict[str, tuple[str, set[str]]]


# -- queries ------------------------------------------------------------------


@by_query
def test_query_names_exist(where: str, samples: Samples) -> None:
    """Each metric in a query is in a scrape, and has the labels that the query uses."""
    for one in asked(QUERIES[where]):
        assert one.name in samples
        assert one.labels - EXTERNAL <= samples[one.name][1], one


@by_query
def test_query_uses_rates_for_counters_only(where: str, samples: Samples) -> None:
    """Counters and histograms are used in a rate or increase, and gauges never are."""
    for one in asked(QUERIES[where]):
        only_up = samples[one.name][0] in ("counter", "histogram")
        assert only_up is bool(COUNTING & set(one.functions)), one


@by_query
def test_query_uses_quantiles_for_buckets_only(where: str, samples: Samples) -> None:
    """A quantile is taken of buckets by `le`, and buckets are used for nothing else."""
    for one in asked(QUERIES[where]):
        is_bucket = one.name.endswith("_bucket")
        assert is_bucket is ("histogram_quantile" in one.functions), one
        assert is_bucket is ("le" in one.labels), one


@by_query
def test_query_matches_possible_label_values(where: str) -> None:
    """The outcomes, reasons and states in a query are those of the host."""
    known = {
        "outcome": {*CLASSES, "ok", "Cancelled"},
        "reason": {*CLASSES, *HTTPStatus.__members__},
        "state": {*State.__members__},
    }
    for one in asked(QUERIES[where]):
        for label, values in one.matchers:
            if label in known:
                assert set(values.split("|")) <= known[label], one


def test_queries_of_faults_list_all_server_faults() -> None:
    """The server's faults in a query are the statuses of 500 and above, except 501."""
    found = [faults(one) for query in QUERIES.values() for one in asked(query)]
    sets = [names for names in found if "DeadlineExceeded" in names and len(names) > 1]
    assert len(sets) >= 3
    assert [FAULTS] * len(sets) == sets


def faults(one: Asked) -> set[str]:
    return set(dict(one.matchers).get("outcome", "").split("|"))


def test_invalid_query_is_an_error() -> None:
    """The parser rejects invalid PromQL, so that the tests above can fail."""
    with pytest.raises(ValueError, match="parenthesis"):
        asked("sum(rate(oip_requests_total[5m])")
    with pytest.raises(ValueError, match="expected type matrix"):
        asked("rate(oip_requests_total)")


# -- the dashboard ------------------------------------------------------------


def test_panels_are_complete_and_unique() -> None:
    """Each panel has a unique id and title, a description, a unit and a data source."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    for panel in panels():
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        targets = panel["targets"]
        assert [source] * (1 + len(targets)) == [
            panel["datasource"], *(target["datasource"] for target in targets)
        ]  # fmt: skip
        assert len({target["refId"] for target in targets}) == len(targets) > 0


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    at = panel["gridPos"]
    return {
        (x, y)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    }


def test_panels_fill_the_grid_without_overlap() -> None:
    """The panels do not overlap in the 24 columns, and leave no gap."""
    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])
    taken = set().union(*(cells(panel) for panel in DASHBOARD["panels"]))
    height = 1 + max(y for _, y in taken)
    assert {(x, y) for x in range(24) for y in range(height)} == taken


def test_variables_are_defined_and_used(samples: Samples) -> None:
    """Each variable in use is defined, and lists a label that exists."""
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    text = json.dumps(DASHBOARD["panels"])
    assert variables_of(text) == set(names)
    for name, (selector, label) in listed().items():
        (one,) = asked(selector)
        assert name == label
        assert {label, *one.labels} - EXTERNAL <= samples[one.name][1]
        # a variable may use only those before it
        assert variables_of(selector) <= set(names[: names.index(name)])


# -- alerts -------------------------------------------------------------------


def test_alerts_are_complete_and_unique() -> None:
    """Each alert has a unique name, a severity, and texts that link to its runbook."""
    names = [rule["alert"] for rule in ALERTS]
    assert sorted(set(names)) == sorted(names)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("warning", "critical")
        notes = rule["annotations"]
        assert {"summary", "description", "runbook_url"} == set(notes)
        file, _, anchor = notes["runbook_url"].partition("#")
        assert f"alert-{rule['alert'].lower()}" == anchor
        assert anchor in anchors(ROOT / file), rule["alert"]


def test_every_alert_has_a_firing_case() -> None:
    """The tests of the rules have a case in which each alert fires."""
    text = ALERTS_FILE.with_name("alerts_test.yaml").read_text()
    cases = yaml.safe_load(text)["tests"]
    firing = {
        sample["labels"].partition('alertname="')[2].partition('"')[0]
        for case in cases
        for step in case["promql_expr_test"]
        for sample in step["exp_samples"]
    }
    assert {rule["alert"] for rule in ALERTS} == firing


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.parametrize("what", ["check", "test"])
def test_promtool_accepts_rules_and_their_cases(what: str) -> None:
    """promtool finds the rules valid, and each alert fires only in its own case."""
    file = ALERTS_FILE.with_name(
        "alerts.yaml" if what == "check" else "alerts_test.yaml"
    )
    done = run("promtool", what, "rules", str(file))
    assert 0 == done.returncode, done.stdout + done.stderr


# -- Prometheus itself --------------------------------------------------------

CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: oip
    static_configs: [{{targets: ["{address}"]}}]
"""


@contextmanager
def prometheus(address: str, directory: Path) -> Iterator[str]:
    """Run a Prometheus that scrapes an address every second; yield its API's URL."""
    file = directory / "prometheus.yml"
    file.write_text(CONFIGURATION.format(rules=ALERTS_FILE, address=address))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.terminate()
        process.wait(30)


def told(api: str, what: str, **parameters: str) -> Any:
    """Return the data of a Prometheus answer, or None before it is ready."""
    try:
        with urlopen(f"{api}/{what}?{urlencode(parameters)}", timeout=30) as answer:
            return json.load(answer)["data"]
    except URLError as error:
        starting = getattr(error, "code", None) == 503
        if starting or isinstance(error.reason, ConnectionRefusedError):
            return None
        raise


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("prometheus"), reason="there is no prometheus")
def test_prometheus_answers_every_query(host: Monitored, tmp_path: Path) -> None:
    """Each panel shows data of a host under load, and the rules evaluate."""
    panels_of = {where: query for where, query in QUERIES.items() if " " in where}
    with prometheus(host.address, tmp_path) as api:
        scraped = {"query": 'count_over_time(up{job="oip"}[1m]) > 12'}

        def enough() -> Any:
            host.ask()
            found = told(api, "query", **scraped)
            return found and found["result"]

        wait_for(enough, "a dozen scrapes")
        empty = [
            where
            for where, query in panels_of.items()
            if not told(api, "query", query=concrete(query, "10s"))["result"]
        ]
        (group,) = told(api, "rules")["groups"]
    assert [] == empty
    assert [("ok", "")] * len(ALERTS) == [
        (rule["health"], rule.get("lastError", "")) for rule in group["rules"]
    ]
    # the handler fails at every third request, and no alert fires that fast
    assert {"inactive", "pending"} >= {rule["state"] for rule in group["rules"]}
