"""Fixtures of all tests: servers that are always stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from support.process import Server


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start a host, and stop it after the test."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> Server:
            return stack.enter_context(Server(*arguments, **options))

        yield start


def request_body(data: list[Any], shape: list[int], datatype: str = "FP32") -> Any:
    """Return a request with one input `x`."""
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    return {"inputs": [tensor]}
