"""Running totals of a model's inferences, for metrics and for Triton's statistics."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from typing import Any

__all__ = ["BOUNDS", "Statistics", "Timing", "merge_statistics"]

BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
"""Upper bounds of buckets, in seconds: Prometheus's defaults, which KServe has too."""


class Timing:
    """A histogram of durations."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)
        """Counts up to each of `BOUNDS`, and above the last."""

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.buckets)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.seconds += seconds
        self.buckets[bisect_left(BOUNDS, seconds)] += 1

    def document(self) -> dict[str, int]:
        """Return a `$duration_stat` of `extension_statistics.md`."""
        return _duration(self.count, self.seconds)


def _duration(count: int, seconds: float = 0.0) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}


class Statistics:
    """Totals since the model was added, over all of its loads.

    A request counts as one inference, and a batch of requests as one execution. The
    host prepares and extracts tensors outside the handler, so compute_input and
    compute_output have a count and no time. There is no cache.
    """

    def __init__(self) -> None:
        self.last_inference_s = 0.0
        self.outcomes: defaultdict[tuple[str, str], int] = defaultdict(int)
        """Finished inferences by protocol and outcome."""
        self.queue, self.handler, self.total = Timing(), Timing(), Timing()
        """Durations of the inferences that were answered."""
        self.bytes_in = self.bytes_out = 0
        """Sizes of request and response bodies, uncompressed."""
        self.failed_s = 0.0
        self.executions: defaultdict[int, Timing] = defaultdict(Timing)
        """Durations in the handler by the number of requests in a batch."""

    def add(
        self,
        protocol: str,
        outcome: str,
        queue_s: float,
        handler_s: float,
        batch_size: int = 1,
        leads: bool = True,
    ) -> None:
        """Count a finished inference.

        One inference of each batch leads, and counts as its execution.
        """
        self.outcomes[protocol, outcome] += 1
        if outcome != "ok":
            self.failed_s += queue_s + handler_s
            return
        self.last_inference_s = time.time()
        self.queue.add(queue_s)
        self.handler.add(handler_s)
        if leads:
            self.executions[batch_size].add(handler_s)

    def document(self, name: str, version: str) -> dict[str, Any]:
        """Return a `$model_stat` of `extension_statistics.md`; times in nanoseconds."""
        answered = self.handler.count
        failed = sum(self.outcomes.values()) - answered
        return {
            "name": name,
            "version": version,
            "last_inference": int(self.last_inference_s * 1000),
            "inference_count": answered,
            "execution_count": sum(t.count for t in self.executions.values()),
            "inference_stats": {
                "success": _duration(
                    answered, self.queue.seconds + self.handler.seconds
                ),
                "fail": _duration(failed, self.failed_s),
                "queue": self.queue.document(),
                "compute_input": _duration(answered),
                "compute_infer": self.handler.document(),
                "compute_output": _duration(answered),
                "cache_hit": _duration(0),
                "cache_miss": _duration(0),
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": _duration(timing.count),
                    "compute_infer": timing.document(),
                    "compute_output": _duration(timing.count),
                }
                for size, timing in sorted(self.executions.items())
            ],
            "memory_usage": [],
        }


def merge_statistics(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Merge two `$model_stat` of the same model version into one."""
    batches: dict[int, dict[str, Any]] = {}
    for batch in (*one["batch_stats"], *other["batch_stats"]):
        size = batch["batch_size"]
        known = batches.get(size)
        parts = {name: part for name, part in batch.items() if name != "batch_size"}
        merged = _add_durations(known, parts) if known else parts
        batches[size] = {"batch_size": size, **merged}
    return {
        **one,
        "last_inference": max(one["last_inference"], other["last_inference"]),
        "inference_count": one["inference_count"] + other["inference_count"],
        "execution_count": one["execution_count"] + other["execution_count"],
        "inference_stats": _add_durations(
            one["inference_stats"], other["inference_stats"]
        ),
        "batch_stats": [batches[size] for size in sorted(batches)],
    }


def _add_durations(
    one: dict[str, Any], other: dict[str, Any]
) -> dict[str, dict[str, int]]:
    """Add two objects of durations, by the names of the second."""
    return {
        name: {key: one[name][key] + number for key, number in duration.items()}
        for name, duration in other.items()
    }
