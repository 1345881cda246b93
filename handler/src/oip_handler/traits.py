"""The traits of a handler, read once into one record."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from pydantic import BaseModel

__all__ = ["METHODS", "HandlerTraits", "read_traits"]

METHODS = ("infer", "model_metadata", "model_load")
"""The methods that every handler must have."""
_OPTIONAL_METHODS = ("model_ready", "model_unload", "predict_v1")


@dataclass(frozen=True)
class HandlerTraits:
    """The parts of the contract that a handler, or its class, uses."""

    methods: frozenset[str] = frozenset()
    """Names of the methods that it has, `predict_v1` and its like included."""
    async_methods: frozenset[str] = frozenset()
    """Names of those that are coroutine functions."""
    settings: type[BaseModel] | None = None
    """Its nested class `Settings`."""
    max_concurrency: int | None = None
    """How many calls may run at once; None where it does not say."""
    is_idempotent: bool = False
    """Whether a request may be sent again where a replica died with it."""
    checks_metadata: bool = False
    """Whether it wants inputs to be checked against its metadata."""
    has_own_probe: bool = False
    """Whether its `model_ready` is not the contract's own."""
    runs_elsewhere: bool = False
    """Whether it only passes calls on, so that they do not wait for each other."""


def read_traits(handler: Any) -> HandlerTraits:
    """Return the traits of a handler, or of a class of handlers."""
    names = (*METHODS, *_OPTIONAL_METHODS)
    found = {name: getattr(handler, name, None) for name in names}
    methods = {name: method for name, method in found.items() if callable(method)}
    settings = getattr(handler, "Settings", None)
    declares = isinstance(settings, type) and issubclass(settings, BaseModel)
    limit = getattr(handler, "max_concurrency", None)
    return HandlerTraits(
        methods=frozenset(methods),
        async_methods=frozenset(
            name for name, method in methods.items() if iscoroutinefunction(method)
        ),
        settings=settings if declares else None,
        max_concurrency=limit if isinstance(limit, int) else None,
        is_idempotent=bool(getattr(handler, "idempotent", False)),
        checks_metadata=bool(getattr(handler, "check_metadata", False)),
        has_own_probe=_is_own_probe(methods.get("model_ready")),
        runs_elsewhere=bool(getattr(handler, "elsewhere", False)),
    )


def _is_own_probe(method: Any) -> bool:
    """Return whether it is not the contract's method, which upstream's is too."""
    name = getattr(method, "__qualname__", "")
    return method is not None and name != "ModelHandler.model_ready"
