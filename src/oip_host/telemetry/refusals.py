"""The count of requests that are refused before they reach a model, by reason."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter

__all__ = ["count"]


def count(protocol: str, reason: str) -> None:
    """Count a refusal; there are few reasons, since each becomes a label."""
    _counter().labels(protocol, reason).inc()


@cache
def _counter() -> Counter:
    return Counter(
        "oip_refused_requests",
        "Requests refused before they reached a model, by reason",
        ["protocol", "reason"],
    )
