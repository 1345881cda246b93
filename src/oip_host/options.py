"""The options of one model, `models.<name>.<option>`, and its handler's settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from oip_host.errors import nearest
from oip_host.selection import DEFAULT_VERSION
from oip_host.settings import validated
from oip_host.sources import MODELS, Values, nested

__all__ = ["ModelOptions", "by_model", "handler_settings", "label", "model_options"]

Key = tuple[str, str]
"""A model's name and version."""


class ModelOptions(BaseModel):
    """What can be set for each model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_concurrency: int | None = Field(
        None, ge=1,
        description="Calls of the handler that may run at once; unset: what it "
        "declares, else 1 (100 for an async one)",
    )  # fmt: skip
    max_queue: int = Field(
        256, ge=0, description="Requests that may wait; those beyond are refused"
    )
    timeout_s: float = Field(
        300.0, gt=0, description="Seconds within which a request is answered or refused"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="What the handler's own Settings takes"
    )


def label(key: Key) -> str:
    """A model's name in `models.<name>`, with a version that is not the default."""
    return key[0] if key[1] == DEFAULT_VERSION else "@".join(key)


def by_model(
    origins: Values, models: Sequence[Key]
) -> tuple[dict[Key, Values], list[str]]:
    """The values given for each model, by path below it, and a warning for each stray.

    What is set for `name@version` goes before what is set for `name`, which holds for
    every version of it.
    """
    labels: dict[str, list[Key]] = {}
    for name, version in models:
        labels.setdefault(name, []).append((name, version))
        labels.setdefault(f"{name}@{version}", []).append((name, version))
    found: dict[Key, Values] = {model: {} for model in models}
    exact: dict[Key, Values] = {model: {} for model in models}
    warnings: list[str] = []
    for path, origin in origins.items():
        if path[0] != MODELS or len(path) < 2:
            continue
        known, option = _split(".".join(path[1:]), labels)
        if known is None:
            warnings.append(
                f"{origin.source}: not used, no selected model is named {path[1]!r}"
                f"{nearest(path[1], {key[0] for key in models})}"
            )
            continue
        for model in labels[known]:
            (exact if "@" in known else found)[model][option] = origin
    return {model: {**found[model], **exact[model]} for model in models}, warnings


def _split(path: str, labels: Iterable[str]) -> tuple[str | None, tuple[str, ...]]:
    """The model that a dotted path begins with, and the path below it.

    A model's name may have dots. In the name of an environment variable it is lower
    case by now, with `_` for each of `-`, `.` and `@`.
    """
    for name in sorted(labels, key=len, reverse=True):
        for spelled in (name, re.sub(r"[-.@]", "_", name).lower()):
            if path.startswith(spelled + "."):
                return name, tuple(path[len(spelled) + 1 :].split("."))
    return None, ()


def model_options(key: Key, values: Values) -> tuple[ModelOptions | None, list[str]]:
    """The options of one model and no faults, or None and a line for each fault."""
    return validated(ModelOptions, values, f"models.{label(key)}.")


def handler_settings(
    handler: Any, key: Key, values: Values
) -> tuple[BaseModel | None, list[str]]:
    """The handler's own `Settings` from `models.<name>.settings.*`, and its faults.

    None where the handler declares none. Text is read as the field's type, and as JSON
    where it spells a list or an object and the field is no text. An unknown key is a
    fault unless the class itself allows extra ones.
    """
    below = {
        path[1:]: origin for path, origin in values.items() if path[0] == "settings"
    }
    declared = getattr(handler, "Settings", None)
    if not (isinstance(declared, type) and issubclass(declared, BaseModel)):
        return None, [
            f"{o.source}: this handler takes no settings" for o in below.values()
        ]
    fields = declared.model_fields
    known = {*fields, *(f.alias for f in fields.values() if f.alias)}
    faults = []
    if declared.model_config.get("extra") != "allow":
        faults = [
            f"{origin.source}: unknown setting{nearest(path[0], known)}"
            for path, origin in below.items()
            if path[0] not in known
        ]
    tree = {
        name: _from_json(value, fields.get(name))
        for name, value in nested(below).items()
    }
    settings, wrong = validated(declared, below, f"models.{label(key)}.settings.", tree)
    return settings, faults + wrong


def _from_json(value: Any, field: Any) -> Any:
    """Text that spells a list or an object, as JSON, for a field that is no text."""
    spelled = isinstance(value, str) and value[:1] in ("[", "{")
    if not spelled or getattr(field, "annotation", None) is str:
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value  # pydantic refuses it by name
