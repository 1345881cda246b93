"""Metrics: the samples of each model, in both formats of Prometheus."""

from __future__ import annotations

import gc
import math
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    exposition,
)
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from oip_handler.errors import OIPError, Overloaded
from oip_handler.messages import InferenceRequest
from oip_host.hookspecs import State
from oip_host.kserve.api import PREDICT_HIST_TIME
from oip_host.model_server import AissembleOIPKServe
from oip_host.models import metrics
from oip_host.models.metrics import ModelMetrics, watch
from oip_host.models.registry import Registry
from oip_host.telemetry.context import RequestContext
from oip_host.telemetry.statistics import BOUNDS
from support.fakes import Echo, KServeDouble, LoadFalse, Raises

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Every sample by its name and labels."""

FORMATS = {
    "text": ("text/plain", parse_text),
    "OpenMetrics": ("application/openmetrics-text; version=1.0.0", parse_open),
}
MODEL = ["model_name", "model_version"]


@pytest.fixture(autouse=True)
def fresh_kserve() -> Iterator[None]:
    """Clear KServe's histogram, which all tests of the process share."""
    PREDICT_HIST_TIME.clear()
    yield
    PREDICT_HIST_TIME.clear()


def model(name: str = "m", version: str = "1", handler: Any = Echo) -> Any:
    return AissembleOIPKServe(name, handler, version=version)


def served(*registries: Registry) -> CollectorRegistry:
    """Return a Prometheus registry with the models of these registries only."""
    collector = ModelMetrics()
    collector.registries.update(registries)
    collected = CollectorRegistry()
    collected.register(collector)
    return collected


def told(collected: CollectorRegistry, kind: str = "text") -> Series:
    """Return a scrape as Prometheus's parser reads it; fail on a duplicate series."""
    accept, parse = FORMATS[kind]
    encode, _ = exposition.choose_encoder(accept)
    text = encode(collected).decode()
    series = [line.rpartition(" ")[0] for line in text.splitlines() if line[0] != "#"]
    assert [] == [one for one, count in Counts(series).items() if count > 1]
    return series_of(parse(text))


def series_of(families: Iterable[Any]) -> Series:
    """Return the samples without the creation times that Prometheus's client adds."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def named(series: Series, *prefixes: str) -> Series:
    return {key: value for key, value in series.items() if key[0].startswith(prefixes)}


def request(datatype: str = "FP32", data: Sequence[Any] = (1.0,)) -> InferenceRequest:
    tensor = {"name": "x", "shape": [len(data)], "datatype": datatype, "data": data}
    return InferenceRequest.model_validate({"inputs": [tensor]})


# -- the families -------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_families_equal_those_of_prometheus(kind: str) -> None:
    """Names, labels, types, help and values equal those of Prometheus's own classes.

    Two versions of one model and another model are counted apart, in order;
    `request_predict_seconds` has one series for each name.
    """
    expected = CollectorRegistry()
    requests = Counter(
        "oip_requests",
        "Inferences that ended, by protocol and outcome",
        [*MODEL, "protocol", "outcome"],
        registry=expected,
    )
    queue = Histogram(
        "oip_queue_seconds",
        "Seconds that a request waited in the model's queue",
        MODEL,
        registry=expected,
    )
    handler = Histogram(
        "oip_handler_seconds",
        "Seconds that a request spent in the handler",
        MODEL,
        registry=expected,
    )
    ready = Gauge(
        "oip_model_ready",
        "1 if the model is READY, otherwise 0",
        MODEL,
        registry=expected,
    )
    load = Gauge(
        "oip_model_load_seconds",
        "Seconds that the model's last load took",
        MODEL,
        registry=expected,
    )
    predict = Histogram(
        "request_predict_seconds",
        "predict request latency",
        ["model_name"],
        registry=expected,
    )
    received = Counter(
        "oip_request_bytes",
        "Bytes of request bodies, uncompressed",
        MODEL,
        registry=expected,
    )
    sent = Counter(
        "oip_response_bytes",
        "Bytes of response bodies, uncompressed",
        MODEL,
        registry=expected,
    )
    total = Histogram(
        "oip_request_seconds",
        "Seconds from a complete request to its encoded response",
        MODEL,
        registry=expected,
    )
    batch = Histogram(
        "oip_batch_size",
        "Requests per call of the handler",
        MODEL,
        buckets=metrics.BATCHES,
        registry=expected,
    )
    state = Gauge(
        "oip_model_state",
        "1 for the state that the model is in, 0 for the others",
        [*MODEL, "state"],
        registry=expected,
    )
    flight = Gauge(
        "oip_requests_in_flight",
        "Accepted requests not answered yet",
        MODEL,
        registry=expected,
    )
    depth = Gauge(
        "oip_queue_depth",
        "Accepted requests waiting in the model's queue",
        MODEL,
        registry=expected,
    )
    models = [model("m", "2"), model("m", "10"), model("other")]
    for n, one in enumerate(models):
        labels = one.name, one.version
        ready.labels(*labels).set(n > 0)
        for each in State:
            is_it = each is (State.READY if n else State.LOADING)
            state.labels(*labels, each.value).set(is_it)
        flight.labels(*labels).set(0)
        depth.labels(*labels).set(0)
        one.state = State.READY if n else State.LOADING
        if n:
            one.load_s = n / 8
            load.labels(*labels).set(n / 8)
    answered = [
        (0, "rest", 0.001, 0.25, 1),
        (0, "grpc", 0.004, 0.5, 2),
        (1, "rest", 0.002, 0.75, 16),
        (2, "v1", 8.0, 16.0, 1000),
    ]
    for n, protocol, queue_s, handler_s, size in answered:
        labels = models[n].name, models[n].version
        counted = models[n].statistics
        counted.add(protocol, "ok", queue_s, handler_s, size)
        counted.total.add(queue_s + handler_s)
        counted.bytes_in += 100 * size
        counted.bytes_out += 10 * size
        received.labels(*labels).inc(100 * size)
        sent.labels(*labels).inc(10 * size)
        total.labels(*labels).observe(queue_s + handler_s)
        batch.labels(*labels).observe(size)
        requests.labels(*labels, protocol, "ok").inc()
        queue.labels(*labels).observe(queue_s)
        handler.labels(*labels).observe(handler_s)
        predict.labels(models[n].name).observe(handler_s)
    models[0].statistics.add("rest", "QueueFull", 1.0, 0.0)
    requests.labels("m", "2", "rest", "QueueFull").inc()
    registry = Registry(models)
    collected = served(registry)
    assert told(expected, kind) == told(collected, kind)
    assert described(expected) == described(collected)


def described(collected: CollectorRegistry) -> set[tuple[str, str, str]]:
    return {(f.name, f.type, f.documentation) for f in collected.collect()}


def test_collector_describes_what_it_collects() -> None:
    """The collector describes all its families, without samples, before a scrape."""
    one = model()
    one.statistics.add("rest", "ok", 0.1, 0.1)
    collector = ModelMetrics()
    registry = Registry([one])
    collector.registries.add(registry)
    names = [family.name for family in collector.describe()]
    assert names == [family.name for family in collector.collect()]
    assert not [sample for family in collector.describe() for sample in family.samples]


EDGES = st.sampled_from([*BOUNDS, *(math.nextafter(b, 99) for b in BOUNDS), 0.0, 1e9])


@given(st.lists(EDGES | st.floats(0, 20), max_size=30))
def test_histogram_equals_prometheuss_own(seconds: list[float]) -> None:
    """Equal observations give equal buckets, count and sum, in both formats."""
    expected = CollectorRegistry()
    histogram = Histogram("oip_handler_seconds", "Time", MODEL, registry=expected)
    one = model()
    for value in seconds:
        histogram.labels("m", "1").observe(value)
        one.statistics.add("rest", "ok", 0.0, value)
    registry = Registry([one])
    for kind in FORMATS:
        found = named(told(served(registry), kind), "oip_handler_seconds")
        assert told(expected, kind) == pytest.approx(found)


@pytest.mark.parametrize("kind", FORMATS)
def test_any_model_name_is_escaped(kind: str) -> None:
    """Quotes, backslashes, line breaks and other scripts are escaped in a label."""
    name = 'a"b\\c\nd{e}=",ü€'
    one = model(name)
    one.statistics.add("rest", "ok", 0.1, 0.1)
    registry = Registry([one])
    found = named(told(served(registry), kind), "oip_requests_total")
    ((key, value),) = found.items()
    assert 1 == value
    assert name == dict(key[1])["model_name"]


# -- counts -------------------------------------------------------------------


async def test_real_inferences_are_counted() -> None:
    """A failed inference is counted by its outcome and is in no histogram."""
    one = model("m", handler=Raises)
    registry = Registry([one])
    collected = served(registry)
    assert {
        "oip_model_ready", "oip_model_state", "oip_requests_in_flight",
        "oip_queue_depth",
    } == {name for name, _ in told(collected)}  # fmt: skip
    await one.load_handler()
    for text in ("ValueError", "RuntimeError", "ValueError"):
        with pytest.raises(OIPError):
            await one.infer(request("BYTES", [text]), RequestContext("grpc"))
    await one.unload_handler()
    found = told(collected)
    labels = ("model_name", "m"), ("model_version", "1")
    assert named(found, "oip_requests_total", "oip_queue_s", "oip_handler") == {
        ("oip_requests_total", (*labels, ("outcome", outcome), ("protocol", "grpc"))): n
        for outcome, n in (("InvalidRequest", 2), ("HandlerFault", 1))
    }
    assert 0 == found["oip_model_ready", labels]
    assert found["oip_model_load_seconds", labels] > 0


class Unlicensed(Overloaded):
    """An error class of a handler."""


class Licensed(Echo):
    def infer(self, *_: Any) -> Any:
        raise Unlicensed("no licence is free")


async def test_custom_error_counts_as_its_base_class() -> None:
    """The outcomes are the classes of the error tree, whatever handlers add to it."""
    one = model("m", handler=Licensed)
    registry = Registry([one])
    await one.load_handler()
    with pytest.raises(Unlicensed):
        await one.infer(request())
    found = named(told(served(registry)), "oip_requests_total")
    assert ["Overloaded"] == [dict(labels)["outcome"] for _, labels in found]
    await one.unload_handler()


async def test_model_that_fails_to_load_has_metrics() -> None:
    """It is not ready, and the duration of its last load is known."""
    one = model(handler=LoadFalse)
    registry = Registry([one])
    await one.load_handler()
    found = {name: value for (name, _), value in told(served(registry)).items()}
    assert 0 == found["oip_model_ready"]
    assert found["oip_model_load_seconds"] > 0
    await one.unload_handler()


async def test_totals_survive_a_reload() -> None:
    """A new instance continues the counters of the old one."""
    one = model()
    registry = Registry([one])
    await one.load_handler()
    await one.infer(request())
    before = named(told(served(registry)), "oip_requests_total", "oip_handler")
    fresh = one.copy_unloaded()
    await fresh.load_handler()
    registry.add(fresh)
    assert before == named(told(served(registry)), "oip_requests_total", "oip_handler")
    await fresh.infer(request())
    after = named(told(served(registry)), "oip_requests_total", "oip_handler")
    assert before.keys() == after.keys()
    assert 2 == after[next(iter(after))]
    for instance in (one, fresh):
        await instance.unload_handler()


# -- KServe's histogram -------------------------------------------------------


def predicted(series: Series) -> dict[str, float]:
    """Return the predictions that `request_predict_seconds` has of each model."""
    counts = named(series, "request_predict_seconds_count")
    return {dict(labels)["model_name"]: value for (_, labels), value in counts.items()}


@pytest.mark.parametrize("kind", FORMATS)
async def test_kserve_counts_its_own_models(kind: str) -> None:
    """A hosted kserve.Model has KServe's samples, once; a handler has the host's."""
    theirs = model("theirs", handler=lambda: KServeDouble("theirs"))
    ours = model("ours")
    registry = Registry([ours, theirs])
    for one in registry:
        await one.load_handler()
        for _ in range(3):
            await one.infer(request())
    found = told(served(registry), kind)
    assert {"ours": 3, "theirs": 3} == predicted(found)
    own = series_of(PREDICT_HIST_TIME.collect())
    assert own
    assert own.items() <= named(found, "request_predict_seconds").items()
    counts = named(found, "oip_handler_seconds_count")
    assert [3, 3] == list(counts.values())
    for one in registry:
        await one.unload_handler()


def test_samples_of_other_models_are_kept() -> None:
    """KServe's samples of a model that is in no registry are exposed unchanged."""
    PREDICT_HIST_TIME.labels(model_name="elsewhere").observe(0.3)
    assert {"elsewhere": 1} == predicted(told(served(Registry())))


@pytest.mark.parametrize("kind", FORMATS)
async def test_name_that_kserve_counts_has_one_series(kind: str) -> None:
    """Each series appears once, even if versions of one name are of both kinds.

    This also holds after a failed reload, when a kserve.Model is not known as one any
    more.
    """
    theirs = model("m", "1", handler=lambda: KServeDouble("m"))
    ours = model("m", "2")
    registry = Registry([theirs, ours])
    for one in registry:
        await one.load_handler()
        await one.infer(request())
    assert "m" in predicted(told(served(registry), kind))
    registry.add(theirs.copy_unloaded())
    assert "m" in predicted(told(served(registry), kind))
    for one in (theirs, ours):
        await one.unload_handler()


# -- registries ---------------------------------------------------------------


def of_host(name: str) -> Series:
    """Return the samples of a model in the process's own registry."""
    everything = told(REGISTRY)
    return {k: v for k, v in everything.items() if ("model_name", name) in k[1]}


def test_models_have_samples_while_their_host_lives() -> None:
    """The models of a host are in the process's registry until the host is gone."""
    name = "a model that comes and goes"
    one = model(name)
    one.statistics.add("rest", "ok", 0.1, 0.1)
    registry = Registry([one])
    watch(registry)
    watch(registry)
    assert {"oip_model_ready", "oip_requests_total"} <= {n for n, _ in of_host(name)}
    assert 1 == predicted(of_host(name))[name]
    del registry, one
    gc.collect()
    assert {} == of_host(name)


def test_kserves_histogram_stays_in_the_process() -> None:
    """With a host in the process, KServe's own observations are still exposed, once."""
    registry = Registry()
    watch(registry)
    PREDICT_HIST_TIME.labels(model_name="elsewhere").observe(0.3)
    assert {"elsewhere": 1} == predicted(of_host("elsewhere"))
    families = [family.name for family in REGISTRY.collect()]
    assert 1 == families.count("request_predict_seconds")


def test_two_hosts_may_have_the_same_model() -> None:
    """A model that several registries have gives each sample only once."""
    first, second = Registry([model("a"), model("b")]), Registry([model("b")])
    found = named(told(served(first, second)), "oip_model_ready")
    assert ["a", "b"] == [dict(labels)["model_name"] for _, labels in found]


def test_no_models_give_no_samples() -> None:
    """An empty registry gives no samples."""
    assert {} == told(served(Registry()))


def test_documented_buckets_are_prometheuss_defaults() -> None:
    """The buckets are the default ones of a Prometheus histogram."""
    assert np.array_equal(Histogram.DEFAULT_BUCKETS, [*BOUNDS, math.inf])
    assert metrics._EDGES[-1] == "+Inf"
