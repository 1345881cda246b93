"""Who is told of a model's events: the extensions, and the host's own two among them.

`Metrics` keeps KServe's histogram `request_predict_seconds` under its name and label,
for dashboards that exist. `LatencyLog` is `kserve_enable_latency_logging`.
"""

from __future__ import annotations

import logging
from functools import cache

import pluggy
from prometheus_client import Counter, Gauge, Histogram

from oip_host.hookspecs import Inference, State, StateChange, hookimpl
from oip_host.kserve_api import (
    KSERVE_LOG_CONFIG,
    PREDICT_HIST_TIME,
    kserve,
    model_server,
)
from oip_host.model import Observer
from oip_host.plugins import call_each

__all__ = ["Hooks", "LatencyLog", "Metrics", "configure_logging"]

log = logging.getLogger("oip_host")

_MODEL = ("model_name", "model_version")


@cache
def _collectors() -> tuple[Counter, Histogram, Histogram, Gauge, Gauge]:
    """The collectors, once in a process: Prometheus's registry is the process's."""
    return (
        Counter(
            "oip_requests", "Finished inferences", (*_MODEL, "protocol", "outcome")
        ),
        Histogram("oip_queue_seconds", "Time in the model's queue", _MODEL),
        Histogram("oip_handler_seconds", "Time in the handler", _MODEL),
        Gauge("oip_model_ready", "1 for a model that is READY, otherwise 0", _MODEL),
        Gauge("oip_model_load_seconds", "Time that the last load took", _MODEL),
    )


class Metrics:
    """Counts and times what the hooks tell; label sets are bound once a model."""

    def __init__(self) -> None:
        self._requests, self._queue, self._handler, self._ready, self._load = (
            _collectors()
        )
        self._outcomes: dict[tuple[str, ...], Counter] = {}
        self._times: dict[tuple[str, ...], tuple[Histogram, Histogram, Histogram]] = {}

    @hookimpl
    def oip_inference(self, inference: Inference) -> None:
        """Count an inference and take its times."""
        model = (inference.model, inference.version)
        labels = (*model, inference.protocol, inference.outcome)
        counter = self._outcomes.get(labels)
        if counter is None:
            counter = self._outcomes[labels] = self._requests.labels(*labels)
        counter.inc()
        if inference.outcome != "ok":
            return
        times = self._times.get(model)
        if times is None:
            times = self._times[model] = (
                self._queue.labels(*model),
                self._handler.labels(*model),
                PREDICT_HIST_TIME.labels(model_name=inference.model),
            )
        times[0].observe(inference.queue_s)
        times[1].observe(inference.handler_s)
        if not inference.kserve_model:
            times[2].observe(inference.handler_s)

    @hookimpl
    def oip_model_state(self, change: StateChange) -> None:
        """Show whether a model is ready, and how long its load took."""
        model = (change.model, change.version)
        self._ready.labels(*model).set(change.state is State.READY)
        if change.load_s is not None:
            self._load.labels(*model).set(change.load_s)


class LatencyLog:
    """The log line of each request that `kserve_enable_latency_logging` asks for."""

    @hookimpl
    def oip_inference(self, inference: Inference) -> None:
        """Write the line."""
        log.info(
            "model=%s version=%s protocol=%s outcome=%s queue_ms=%.3f predict_ms=%.3f",
            inference.model, inference.version, inference.protocol, inference.outcome,
            inference.queue_s * 1000, inference.handler_s * 1000,
        )  # fmt: skip


class Hooks(Observer):
    """Passes a model's events to the extensions; nothing where nobody listens."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._hook = manager.hook
        if manager.hook.oip_inference.get_hookimpls():
            self.inference = self._inference

    def state(self, change: StateChange) -> None:
        call_each(self._hook.oip_model_state, change=change)

    def _inference(self, inference: Inference) -> None:
        call_each(self._hook.oip_inference, inference=inference)


def configure_logging() -> None:
    """Log as KServe does, unless the program has set up its own logging.

    KServe's own `configure_logging=false` and `log_config_file` hold for both.
    """
    if not model_server.args.configure_logging:
        return
    kserve.logging.configure_logging(model_server.args.log_config_file)
    if not log.hasHandlers():
        form = KSERVE_LOG_CONFIG["formatters"]["kserve"]
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(form["fmt"], form["datefmt"]))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
