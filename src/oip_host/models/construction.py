"""Making a handler from what an entry point names: a class, a factory, a model."""

from __future__ import annotations

import inspect
from typing import Any

from oip_handler.errors import HandlerFault
from oip_host.kserve.api import kserve

__all__ = ["constructed"]


def constructed(
    handler: Any, model: str, target: str, arguments: dict[str, Any]
) -> Any:
    """An instance of a handler class, of a factory's handler, or of a `kserve.Model`.

    A `kserve.Model` whose constructor takes a `name` gets the model's, and bears it in
    any case. Raises HandlerFault where the object cannot be called, or its call raises.
    """
    if not callable(handler):
        raise HandlerFault(
            f"{target} is no handler: it is a {type(handler).__name__}, "
            "expected a class or a factory"
        )
    is_model = isinstance(handler, type) and issubclass(handler, kserve.Model)
    if is_model and _takes_name(handler):
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


def _takes_name(model: type[Any]) -> bool:
    return "name" in inspect.signature(model).parameters
