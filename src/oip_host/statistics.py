"""Running totals of one model's inferences, in the form of Triton's statistics."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["Statistics"]


class _Total:
    """How often something was timed, and its time in all in nanoseconds."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = self.ns = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * 1e9)

    def document(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class Statistics:
    """The totals since the model was added, over all of its loads.

    A request counts as one inference. The host prepares and extracts tensors outside
    of the handler, so compute_input and compute_output have a count and no time, and
    it has no cache.
    """

    def __init__(self) -> None:
        self.last_inference_ms = 0
        self.success, self.fail = _Total(), _Total()
        self.queue, self.infer = _Total(), _Total()

    def add(self, answered: bool, queue_s: float, handler_s: float) -> None:
        """Count a finished inference, with its times in seconds."""
        if not answered:
            self.fail.add(queue_s + handler_s)
            return
        self.last_inference_ms = int(time.time() * 1000)
        self.success.add(queue_s + handler_s)
        self.queue.add(queue_s)
        self.infer.add(handler_s)

    def document(self, name: str, version: str) -> dict[str, Any]:
        """One `$model_stat` of `extension_statistics.md`, counts and nanoseconds."""
        none = {"count": 0, "ns": 0}
        untimed = {"count": self.infer.count, "ns": 0}
        batch = {
            "batch_size": 1,
            "compute_input": untimed,
            "compute_infer": self.infer.document(),
            "compute_output": untimed,
        }
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.infer.count,
            "execution_count": self.infer.count,
            "inference_stats": {
                "success": self.success.document(),
                "fail": self.fail.document(),
                "queue": self.queue.document(),
                "compute_input": untimed,
                "compute_infer": self.infer.document(),
                "compute_output": untimed,
                "cache_hit": none,
                "cache_miss": none,
            },
            "response_stats": {},
            "batch_stats": [batch] if self.infer.count else [],
            "memory_usage": [],
        }
