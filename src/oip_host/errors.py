"""The error that stops the host before it listens.

The errors that clients meet are in `oip_handler.errors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = ["ConfigurationError", "nearest"]


class ConfigurationError(Exception):
    """Everything that is wrong with the configuration, one line each."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `", nearest: 'a', 'b'"`, the known names most like `name`, or no text."""
    close = get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.6)
    return f", nearest: {', '.join(map(repr, close))}" if close else ""
