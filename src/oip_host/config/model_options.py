"""The options of one model, `models.<name>.<option>`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from oip_host.config.selection import DEFAULT_VERSION
from oip_host.config.settings import RELOADABLE
from oip_host.config.sources import MODELS, Values
from oip_host.config.validation import validate
from oip_host.errors import nearest

__all__ = [
    "OF_REPLICAS",
    "Autoscaling",
    "Key",
    "ModelOptions",
    "decode",
    "group_by_model",
    "label",
    "parse_model_options",
]

Key = tuple[str, str]
"""A model's name and version."""


class Autoscaling(BaseModel):
    """The bounds and the aim of Ray Serve's autoscaling; times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: int = Field(1, ge=1)
    max: int = Field(ge=1)
    target: float = Field(2.0, gt=0)
    """Requests in flight per replica that it aims at."""
    upscale_delay_s: float = Field(30.0, ge=0)
    downscale_delay_s: float = Field(600.0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Autoscaling:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, expected at most {self.max}, the max")
        return self


def _parse_object(value: Any) -> Any:
    """Return the value, decoded if it is text, as arguments and variables have it."""
    return decode(value) if isinstance(value, str) else value


def decode(text: str) -> Any:
    """Return the value of JSON text, or the text for pydantic to reject by name."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


OF_REPLICAS = (
    "num_cpus", "num_gpus", "resources", "max_ongoing_requests", "py_executable",
    "runtime_env", "idempotent",
)  # fmt: skip
"""The options that need replicas."""


class ModelOptions(BaseModel):
    """The options of a single model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_concurrency: int | None = Field(
        None, ge=1,
        description="Concurrent calls of the handler; unset: what it declares, else 1 "
        "(100 for an async one)",
    )  # fmt: skip
    max_queue: int = Field(
        256,
        ge=0,
        description="Requests that may wait; further ones are rejected",
        json_schema_extra=RELOADABLE,
    )
    timeout_s: float = Field(
        300.0,
        gt=0,
        description="Time limit of a request, in seconds",
        json_schema_extra=RELOADABLE,
    )
    max_batch_size: int = Field(
        1,
        ge=1,
        description="Maximum number of rows merged into one call; 1: no batching",
        json_schema_extra=RELOADABLE,
    )
    max_batch_delay_ms: float = Field(
        0.0,
        ge=0,
        description="Longest wait for more requests to batch, in milliseconds",
        json_schema_extra=RELOADABLE,
    )
    check_metadata: bool = Field(
        False, description="Check inputs against the model's metadata"
    )
    replicas: int | None = Field(
        None, ge=1,
        description="Number of replicas in Ray Serve; unset: the model runs in the "
        "host",
    )  # fmt: skip
    autoscaling: Autoscaling | None = Field(
        None,
        description="`min`, `max`, `target`: scale the number of replicas with the "
        "load",
    )
    num_cpus: float | None = Field(
        None, ge=0, description="Ray CPUs per replica; unset: 1"
    )
    num_gpus: float | None = Field(
        None, ge=0, description="Ray GPUs per replica; unset: none"
    )
    resources: Annotated[dict[str, float], BeforeValidator(_parse_object)] = Field(
        default_factory=dict,
        description="Custom Ray resources per replica, as a JSON object",
    )
    max_ongoing_requests: int | None = Field(
        None, ge=1,
        description="Concurrent requests per replica; unset: three more than it runs",
    )  # fmt: skip
    py_executable: str | None = Field(
        None, description="Python interpreter of the replicas; unset: the host's"
    )
    runtime_env: Annotated[dict[str, Any], BeforeValidator(_parse_object)] = Field(
        default_factory=dict,
        description="Ray runtime environment of the replicas, as a JSON object",
    )
    idempotent: bool | None = Field(
        None,
        description="Retry a request whose replica died; unset: what the handler "
        "declares",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="The handler's own settings"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> ModelOptions:
        if self.replicas is not None and self.autoscaling is not None:
            raise ValueError("replicas and autoscaling are set, expected one of them")
        stray = [name for name in OF_REPLICAS if name in self.model_fields_set]
        if stray and not self.is_replicated:
            raise ValueError(
                f"{', '.join(stray)}: only for a model with replicas or autoscaling"
            )
        return self

    @property
    def is_replicated(self) -> bool:
        """Whether the model runs in replicas, and not in the host."""
        return self.replicas is not None or self.autoscaling is not None

    @property
    def most_replicas(self) -> int:
        """The largest number of replicas; 0 for a model that runs in the host."""
        return self.autoscaling.max if self.autoscaling else self.replicas or 0


def label(key: Key) -> str:
    """Return a model's name in `models.<name>`, with its version if not the default."""
    return key[0] if key[1] == DEFAULT_VERSION else "@".join(key)


def group_by_model(
    origins: Values, models: Sequence[Key]
) -> tuple[dict[Key, Values], list[str]]:
    """Return the values set for each model, and a warning for each stray one.

    The paths are those below the model. What is set for `name@version` goes before what
    is set for `name`, which holds for every version of it.
    """
    labels: dict[str, list[Key]] = {}
    for name, version in models:
        labels.setdefault(name, []).append((name, version))
        labels.setdefault(f"{name}@{version}", []).append((name, version))
    general: dict[Key, Values] = {model: {} for model in models}
    exact: dict[Key, Values] = {model: {} for model in models}
    warnings: list[str] = []
    for path, origin in origins.items():
        if path[0] != MODELS or len(path) < 2:
            continue
        known, option = _split(path[1:], labels)
        if known is None:
            names = {name for name, _ in models}
            warnings.append(
                f"{origin.source}: not used, no selected model is named {path[1]!r}"
                f"{nearest(path[1], names)}"
            )
            continue
        for model in labels[known]:
            (exact if "@" in known else general)[model][option] = origin
    return {model: {**general[model], **exact[model]} for model in models}, warnings


def _split(
    path: tuple[str, ...], labels: Iterable[str]
) -> tuple[str | None, tuple[str, ...]]:
    """Return the model that a path begins with, and the path below it.

    A model's name may have dots. In an environment variable it has become lower case,
    with `_` in place of `-`, `.` and `@`.
    """
    exact = {name: name for name in labels}
    for names in (exact, {re.sub(r"[-.@]", "_", n).lower(): n for n in exact}):
        for end in range(len(path), 0, -1):
            name = names.get(".".join(path[:end]))
            if name is not None:
                return name, path[end:] or ("",)
    return None, ()


def parse_model_options(
    key: Key, values: Values
) -> tuple[ModelOptions | None, list[str]]:
    """Return the options of one model and no faults, or None and its faults."""
    return validate(ModelOptions, values, f"models.{label(key)}.")
