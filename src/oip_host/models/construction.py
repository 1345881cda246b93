"""Making a handler from a class, a factory or a model, in this one place."""

from __future__ import annotations

import inspect
from typing import Any

from oip_handler.errors import HandlerFault
from oip_handler.traits import METHODS
from oip_host.kserve.api import kserve
from oip_host.kserve.model_handler import KServeModelHandler

__all__ = ["construct_handler", "is_factory", "make_handler", "name_source"]


def construct_handler(
    handler: Any, model: str, target: str, arguments: dict[str, Any]
) -> Any:
    """Construct what an entry point names: a handler, or a `kserve.Model`.

    A `kserve.Model` whose constructor takes a `name` gets the model's, and bears it in
    any case. Raises HandlerFault where the object cannot be called, or its call raises.
    """
    if not callable(handler):
        raise HandlerFault(
            f"{target} is not a handler: found a {type(handler).__name__}, "
            "expected a class or a factory"
        )
    is_model = isinstance(handler, type) and issubclass(handler, kserve.Model)
    if is_model and "name" in inspect.signature(handler).parameters:
        arguments = {"name": model, **arguments}
    try:
        made = handler(**arguments)
    except Exception as error:
        raise HandlerFault(
            f"{target} could not be constructed: {type(error).__name__}: {error}"
        ) from error
    if isinstance(made, kserve.Model):
        made.name = model
    return made


def make_handler(source: Any) -> Any:
    """Return the handler that a model was given, made here where that is left to us.

    `source` is a handler, or a class or function without arguments that makes one; a
    `kserve.Model` in its place is wrapped. Raises HandlerFault where methods are
    missing, and whatever the constructor raises.
    """
    handler = source() if is_factory(source) else source
    if isinstance(handler, kserve.Model):
        return KServeModelHandler(handler)
    missing = [name for name in METHODS if not callable(getattr(handler, name, None))]
    if missing:
        raise HandlerFault(
            f"{type(handler).__qualname__} is not a handler: it has no "
            f"{', '.join(missing)}"
        )
    return handler


def is_factory(source: Any) -> bool:
    """Return whether a model was given what makes its handler, not the handler."""
    return inspect.isclass(source) or not (
        hasattr(source, METHODS[0]) or isinstance(source, kserve.Model)
    )


def name_source(source: Any) -> str:
    """Return the full name of a handler's class, or of what makes one."""
    known = source if hasattr(source, "__qualname__") else type(source)
    return f"{known.__module__}.{known.__qualname__}"
