"""Validation of options by pydantic, with the source of each wrong value."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from oip_host.config.sources import Origin, Values, nest
from oip_host.errors import nearest

__all__ = ["validate"]

M = TypeVar("M", bound=BaseModel)


def validate(
    model: type[M], values: Values, prefix: str = "", tree: dict[str, Any] | None = None
) -> tuple[M | None, list[str]]:
    """Return an instance of a pydantic model and no faults, or None and its faults.

    `prefix` stands before the name of an option that is not set; `tree` replaces the
    object that `values` make up.
    """
    try:
        return model(**(nest(values) if tree is None else tree)), []
    except ValidationError as error:
        return None, [_explain(model, e, values, prefix) for e in error.errors()]


def _explain(model: type[BaseModel], detail: Any, values: Values, prefix: str) -> str:
    """Return one line for one of pydantic's errors: source, found and expected."""
    path = tuple(str(part) for part in detail["loc"])
    if not path:  # the model as a whole: what was found may hold secrets
        return f"{prefix.rstrip('.')}: {detail['msg']}"
    origin = _origin_of(path, values)
    source = origin.source if origin else prefix + ".".join(path)
    if detail["type"] == "extra_forbidden":
        return f"{source}: unknown option{nearest(path[-1], model.model_fields)}"
    if detail["type"] == "missing":
        return f"{source}: required, but not set"
    text = re.sub(r"^Input should be ", "expected ", detail["msg"])
    expected = text.split(", unable")[0]
    found = origin.shown if origin else repr(detail["input"])
    return f"{source}: found {found}, {expected}"


def _origin_of(path: tuple[str, ...], values: Values) -> Origin | None:
    """Return the origin of the value at a path, or else of one above or below it."""
    for known, origin in values.items():
        if path and (known[: len(path)] == path or path[: len(known)] == known):
            return origin
    return None
