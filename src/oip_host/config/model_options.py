"""The options of one model, `models.<name>.<option>`, and its handler's settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretBytes,
    SecretStr,
    model_validator,
)

from oip_handler.model_paths import find_path_fields
from oip_handler.traits import read_traits
from oip_host.config.model_dir import default_path
from oip_host.config.selection import DEFAULT_VERSION
from oip_host.config.settings import RELOADABLE, validated
from oip_host.config.sources import MODELS, Origin, Values, nested
from oip_host.errors import nearest

__all__ = [
    "OF_REPLICAS",
    "Autoscaling",
    "ModelOptions",
    "by_model",
    "handler_settings",
    "label",
    "located",
    "masked",
    "model_options",
]

Key = tuple[str, str]
"""A model's name and version."""


class Autoscaling(BaseModel):
    """Between how many replicas Ray Serve chooses, and by what; times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: int = Field(1, ge=1)
    max: int = Field(ge=1)
    target: float = Field(2.0, gt=0)
    """Requests under way for each replica that it aims at."""
    upscale_delay_s: float = Field(30.0, ge=0)
    downscale_delay_s: float = Field(600.0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Autoscaling:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, expected at most {self.max}, the max")
        return self


def _object(value: Any) -> Any:
    """A JSON object from its text, as arguments and variables have it."""
    return _decoded(value) if isinstance(value, str) else value


OF_REPLICAS = (
    "num_cpus", "num_gpus", "resources", "max_ongoing_requests", "py_executable",
    "runtime_env", "idempotent",
)  # fmt: skip
"""The options that only a model with replicas has."""


class ModelOptions(BaseModel):
    """What can be set for each model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_concurrency: int | None = Field(
        None, ge=1,
        description="Calls of the handler that may run at once; unset: what it "
        "declares, else 1 (100 for an async one)",
    )  # fmt: skip
    max_queue: int = Field(
        256,
        ge=0,
        description="Requests that may wait; those beyond are refused",
        json_schema_extra=RELOADABLE,
    )
    timeout_s: float = Field(
        300.0,
        gt=0,
        description="Seconds within which a request is answered or refused",
        json_schema_extra=RELOADABLE,
    )
    max_batch_size: int = Field(
        1,
        ge=1,
        description="Rows that requests are merged to; 1: they are not merged",
        json_schema_extra=RELOADABLE,
    )
    max_batch_delay_ms: float = Field(
        0.0,
        ge=0,
        description="Milliseconds that a request may wait for others to join",
        json_schema_extra=RELOADABLE,
    )
    check_metadata: bool = Field(
        False, description="Hold inputs against the metadata of the model"
    )
    replicas: int | None = Field(
        None, ge=1,
        description="Replicas in Ray Serve; unset: the model runs in the host",
    )  # fmt: skip
    autoscaling: Autoscaling | None = Field(
        None, description="`min`, `max`, `target`: the number of replicas by the load"
    )
    num_cpus: float | None = Field(
        None, ge=0, description="Ray's CPUs for each replica; unset: 1"
    )
    num_gpus: float | None = Field(
        None, ge=0, description="Ray's GPUs for each replica; unset: none"
    )
    resources: Annotated[dict[str, float], BeforeValidator(_object)] = Field(
        default_factory=dict, description="Ray's custom resources for each replica"
    )
    max_ongoing_requests: int | None = Field(
        None, ge=1,
        description="Requests that a replica has at once; unset: three more than "
        "it runs",
    )  # fmt: skip
    py_executable: str | None = Field(
        None, description="The Python of the replicas, where it is not the host's"
    )
    runtime_env: Annotated[dict[str, Any], BeforeValidator(_object)] = Field(
        default_factory=dict, description="Ray's runtime environment of the replicas"
    )
    idempotent: bool | None = Field(
        None,
        description="Whether to ask again where a replica died; unset: what the "
        "handler declares",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="What the handler's own Settings takes"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> ModelOptions:
        if self.replicas is not None and self.autoscaling is not None:
            raise ValueError("replicas and autoscaling are set, expected one of them")
        stray = [name for name in OF_REPLICAS if name in self.model_fields_set]
        if stray and not self.replicated:
            raise ValueError(
                f"{', '.join(stray)}: only for a model with replicas or autoscaling"
            )
        return self

    @property
    def replicated(self) -> bool:
        """Whether the model runs in replicas, and not in the host."""
        return self.replicas is not None or self.autoscaling is not None

    @property
    def most_replicas(self) -> int:
        """How many replicas there can be; 0 for a model that runs in the host."""
        return self.autoscaling.max if self.autoscaling else self.replicas or 0


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
        known, option = _split(path[1:], labels)
        if known is None:
            warnings.append(
                f"{origin.source}: not used, no selected model is named {path[1]!r}"
                f"{nearest(path[1], {key[0] for key in models})}"
            )
            continue
        for model in labels[known]:
            (exact if "@" in known else found)[model][option] = origin
    return {model: {**found[model], **exact[model]} for model in models}, warnings


def _split(
    path: tuple[str, ...], labels: Iterable[str]
) -> tuple[str | None, tuple[str, ...]]:
    """The model that a path begins with, and the path below it.

    A model's name may have dots. In the name of an environment variable it is lower
    case by now, with `_` for each of `-`, `.` and `@`.
    """
    exact = {name: name for name in labels}
    for names in (exact, {re.sub(r"[-.@]", "_", n).lower(): n for n in exact}):
        for end in range(len(path), 0, -1):
            name = names.get(".".join(path[:end]))
            if name is not None:
                return name, path[end:] or ("",)
    return None, ()


def model_options(key: Key, values: Values) -> tuple[ModelOptions | None, list[str]]:
    """The options of one model and no faults, or None and a line for each fault."""
    return validated(ModelOptions, values, f"models.{label(key)}.")


def masked(handler: Any, values: Values) -> Values:
    """The values, those that the handler takes as pydantic's secrets marked so.

    Of a handler that is not known, None, any setting may be one.
    """
    declared = read_traits(handler).settings
    secret = {
        name
        for name, field in (declared.model_fields if declared else {}).items()
        if _holds_secret(field.annotation)
    }
    return {
        path: replace(origin, secret=True)
        if path[0] == "settings" and (handler is None or secret.intersection(path[1:2]))
        else origin
        for path, origin in values.items()
    }


def _holds_secret(annotation: Any) -> bool:
    if annotation in (SecretStr, SecretBytes):
        return True
    return any(map(_holds_secret, get_args(annotation)))


def located(handler: Any, key: Key, values: Values, model_dir: str | None) -> Values:
    """The values with the handler's paths of model files below the model directory.

    A required one that nobody set is where the files of the model are by default, if
    they are there.
    """
    declared = read_traits(handler).settings
    if declared is None or model_dir is None:
        return values
    directory = Path(model_dir).absolute()
    found: Values = {}
    for name, required in find_path_fields(declared):
        path = ("settings", name)
        origin = values.get(path)
        if origin is None and required:
            default, _ = default_path(directory, *key)
            if default is not None:
                found[path] = Origin(str(default), "oip_model_dir")
        elif origin and isinstance(origin.value, str) and origin.value:
            found[path] = replace(origin, value=str(directory / origin.value))
    return {**values, **found}


def _sought(
    declared: type[BaseModel], key: Key, model_dir: str | None, faults: list[str]
) -> list[str]:
    """The faults, those of a path that nobody set with where it was looked for."""
    if model_dir is None:
        return faults
    _, places = default_path(Path(model_dir).absolute(), *key)
    prefix = f"models.{label(key)}.settings."
    missing = {
        f"{prefix}{n}: required, but not set" for n, _ in find_path_fields(declared)
    }
    return [f"{f}, and no {places} is there" if f in missing else f for f in faults]


def handler_settings(
    handler: Any, key: Key, values: Values, model_dir: str | None = None
) -> tuple[BaseModel | None, list[str]]:
    """The handler's own `Settings` from `models.<name>.settings.*`, and its faults.

    None where the handler declares none. Text is read as the field's type, and as JSON
    where it spells a list or an object and the field is no text. An unknown key is a
    fault unless the class itself allows extra ones.
    """
    below = {
        path[1:]: origin
        for path, origin in values.items()
        if path[0] == "settings" and len(path) > 1
    }
    declared = read_traits(handler).settings
    if declared is None:
        return None, [
            f"{o.source}: this handler takes no settings" for o in below.values()
        ]
    fields = declared.model_fields
    known = {*fields, *(f.alias for f in fields.values() if f.alias)}
    faults = []
    if declared.model_config.get("extra") not in ("allow", "forbid"):
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
    return settings, faults + _sought(declared, key, model_dir, wrong)


def _from_json(value: Any, field: Any) -> Any:
    """Text that spells a list or an object, as JSON, for a field that is no text."""
    spelled = isinstance(value, str) and value[:1] in ("[", "{")
    if not spelled or _is_text(getattr(field, "annotation", None)):
        return value
    return _decoded(value)


def _decoded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text  # pydantic refuses it by name


def _is_text(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        return all(_is_text(a) for a in get_args(annotation) if a is not NoneType)
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    text = (str, bytes, SecretStr, SecretBytes, PurePath)
    return isinstance(annotation, type) and issubclass(annotation, text)
