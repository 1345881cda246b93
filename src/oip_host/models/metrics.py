"""The metrics of models: their own totals, read when Prometheus scrapes.

A request only adds to its model's `Statistics`. KServe's histogram
`request_predict_seconds` keeps its name and label, for dashboards that exist, and has
the handlers beside what KServe itself observes of a `kserve.Model`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from math import inf
from weakref import WeakSet

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from oip_host.hookspecs import State
from oip_host.kserve.api import PREDICT_HIST_TIME
from oip_host.models.model import Model
from oip_host.models.registry import Registry
from oip_host.telemetry.statistics import BOUNDS, Timing

__all__ = ["ModelMetrics", "watch"]

_MODEL = ("model_name", "model_version")
_EDGES = [*map(str, BOUNDS), "+Inf"]
BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Upper bounds of the buckets of batch sizes."""


def watch(registry: Registry) -> None:
    """Export the metrics of a registry's models for as long as it exists."""
    _collector().registries.add(registry)


@cache
def _collector() -> ModelMetrics:
    """Return the collector of the process, as Prometheus's registry is."""
    REGISTRY.unregister(PREDICT_HIST_TIME)
    collector = ModelMetrics()
    REGISTRY.register(collector)
    return collector


class ModelMetrics(Collector):
    """The metric families of all models."""

    def __init__(self) -> None:
        self.registries: WeakSet[Registry] = WeakSet()

    def describe(self) -> Sequence[Metric]:
        """Return the names of the families, without samples."""
        return list(_families(()))

    def collect(self) -> Iterator[Metric]:
        """Yield the families with their present samples."""
        models = {
            (model.name, model.version): model
            for registry in self.registries
            for model in registry
        }
        yield from _families([models[key] for key in sorted(models)])


def _families(models: Sequence[Model]) -> Iterator[Metric]:
    yield from _counters(models)
    yield from _histograms(models)
    yield from _gauges(models)
    yield _predict_seconds(models)


def _counters(models: Sequence[Model]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "oip_requests",
        "Inferences that ended, by protocol and outcome",
        labels=(*_MODEL, "protocol", "outcome"),
    )
    received = CounterMetricFamily(
        "oip_request_bytes", "Bytes of request bodies, uncompressed", labels=_MODEL
    )
    sent = CounterMetricFamily(
        "oip_response_bytes", "Bytes of response bodies, uncompressed", labels=_MODEL
    )
    for model in models:
        labels, statistics = (model.name, model.version), model.statistics
        for outcome, count in sorted(statistics.outcomes.items()):
            requests.add_metric((*labels, *outcome), count)
        if statistics.outcomes:
            received.add_metric(labels, statistics.bytes_in)
            sent.add_metric(labels, statistics.bytes_out)
    yield from (requests, received, sent)


def _histograms(models: Sequence[Model]) -> Iterator[Metric]:
    total = HistogramMetricFamily(
        "oip_request_seconds",
        "Seconds from a complete request to its encoded response",
        labels=_MODEL,
    )
    queue = HistogramMetricFamily(
        "oip_queue_seconds",
        "Seconds that a request waited in the model's queue",
        labels=_MODEL,
    )
    handler = HistogramMetricFamily(
        "oip_handler_seconds",
        "Seconds that a request spent in the handler",
        labels=_MODEL,
    )
    batch = HistogramMetricFamily(
        "oip_batch_size", "Requests per call of the handler", labels=_MODEL
    )
    for model in models:
        labels, statistics = (model.name, model.version), model.statistics
        _add(total, labels, [statistics.total])
        _add(queue, labels, [statistics.queue])
        _add(handler, labels, [statistics.handler])
        executions = {
            size: timing.count for size, timing in list(statistics.executions.items())
        }
        if executions:
            requests = sum(size * count for size, count in executions.items())
            batch.add_metric(labels, _batch_buckets(executions), requests)
    yield from (total, queue, handler, batch)


def _batch_buckets(executions: Mapping[int, int]) -> list[tuple[str, float]]:
    """Count the calls that had up to each number of requests."""
    return [
        (str(edge) if edge < inf else "+Inf",
         float(sum(count for size, count in executions.items() if size <= edge)))
        for edge in (*BATCHES, inf)
    ]  # fmt: skip


def _gauges(models: Sequence[Model]) -> Iterator[Metric]:
    ready = GaugeMetricFamily(
        "oip_model_ready", "1 if the model is READY, otherwise 0", labels=_MODEL
    )
    state = GaugeMetricFamily(
        "oip_model_state",
        "1 for the state that the model is in, 0 for the others",
        labels=(*_MODEL, "state"),
    )
    load = GaugeMetricFamily(
        "oip_model_load_seconds",
        "Seconds that the model's last load took",
        labels=_MODEL,
    )
    flight = GaugeMetricFamily(
        "oip_requests_in_flight", "Accepted requests not answered yet", labels=_MODEL
    )
    depth = GaugeMetricFamily(
        "oip_queue_depth",
        "Accepted requests waiting in the model's queue",
        labels=_MODEL,
    )
    for model in models:
        labels = (model.name, model.version)
        ready.add_metric(labels, float(model.ready))
        for each in State:
            state.add_metric((*labels, each.value), float(model.state is each))
        if model.load_s is not None:
            load.add_metric(labels, model.load_s)
        accepted, waiting = model.count_pending()
        flight.add_metric(labels, accepted)
        depth.add_metric(labels, waiting)
    yield from (ready, state, load, flight, depth)


def _predict_seconds(models: Sequence[Model]) -> Metric:
    """KServe's histogram: its own samples, and the handlers' beside them."""
    predict = HistogramMetricFamily(
        "request_predict_seconds", "predict request latency", labels=["model_name"]
    )
    kserves = [s for family in PREDICT_HIST_TIME.collect() for s in family.samples]
    observed = {sample.labels["model_name"] for sample in kserves}
    for name in dict.fromkeys(model.name for model in models):
        versions = [m for m in models if m.name == name and not m.is_kserve_model]
        if name not in observed:  # a series may not stand there twice
            _add(predict, [name], [model.statistics.handler for model in versions])
    predict.samples += kserves
    return predict


def _add(
    family: HistogramMetricFamily, labels: Sequence[str], timings: Sequence[Timing]
) -> None:
    """Add the sum of the timings, if there is anything in them."""
    counts = [sum(column) for column in zip(*(t.buckets for t in timings), strict=True)]
    if any(counts):
        buckets = list(zip(_EDGES, map(float, accumulate(counts)), strict=True))
        family.add_metric(labels, buckets, sum(timing.seconds for timing in timings))
