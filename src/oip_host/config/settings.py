"""Every option of the server, declared once, and the values that are in effect.

A value comes from the first of: container argument, environment variable, Krausening
property (`oip.properties`), default. The three names follow from the declared one:
`kserve_http_port` is `--http_port`, `KSERVE_HTTP_PORT` and the property
`kserve_http_port`. The options of a single model are in `config/model_options.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from oip_host.config.sources import (
    MODELS,
    Origin,
    Values,
    absent,
    from_arguments,
    from_environment,
    from_properties,
    nested,
)
from oip_host.errors import nearest

__all__ = [
    "RELOADABLE",
    "WORKER",
    "Configuration",
    "Settings",
    "read",
    "reloadable",
    "validated",
]

M = TypeVar("M", bound=BaseModel)

RELOADABLE: dict[str, Any] = {"reloadable": True}
"""Marks an option that may change while the host runs, where it is declared."""

WORKER = "OIP_WORKER"
"""The variable in which a worker process finds its place."""

KSERVES = (
    "KSERVE_LOGLEVEL",
    "KSERVE_OPENAI_ROUTE_PREFIX",
    "KSERVE_TLS_CERT_FILE",
    "KSERVE_TLS_KEY_FILE",
)
"""Variables that KServe itself reads."""
_PREFIXES = ("OIP_", "KSERVE_", "AUTH_")
"""How the names of variables begin that may be meant for the host."""


class Settings(BaseModel):
    """The options of the server. The first nine are aiSSEMBLE's, name by name."""

    model_config = ConfigDict(frozen=True)

    kserve_http_port: int = Field(
        8080, ge=0, le=65535, description="The HTTP port; 0 takes any free one"
    )
    kserve_grpc_port: int = Field(
        8081, ge=0, le=65535, description="The gRPC port; 0 takes any free one"
    )
    kserve_workers: int = Field(
        1, ge=1, description="Processes that serve, all at the same two ports"
    )
    kserve_max_threads: int = Field(
        4, ge=1, description="The max number of gRPC processing threads"
    )
    kserve_max_asyncio_workers: int | None = Field(
        None, ge=1, description="The max number of asyncio worker threads"
    )
    kserve_enable_grpc: bool = Field(True, description="Serve gRPC too")
    kserve_enable_docs_url: bool = Field(False, description="Serve Swagger UI at /docs")
    kserve_enable_latency_logging: bool = Field(
        True, description="Write a log line with the times of each request"
    )
    kserve_access_log_format: str | None = Field(
        None, description="The format of the access log, as asgi-logger reads it"
    )
    oip_handlers: str | None = Field(
        None, description="Which models to serve, from which handlers; unset: all"
    )
    oip_log_format: Literal["text", "json"] = Field(
        "text", description="How log lines look: as KServe's, or JSON objects"
    )
    oip_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO",
        description="The least level that is logged",
        json_schema_extra=RELOADABLE,
    )
    oip_tracing: bool = Field(
        False,
        description="Trace requests, as the OTEL_* variables of OpenTelemetry say",
    )
    oip_plugin_dir: str | None = Field(
        None, description="A directory of wheels to find handlers in; unset: none"
    )
    oip_plugin_cache: str | None = Field(
        None, description="Where these are installed; unset: a temporary directory"
    )
    oip_model_dir: str | None = Field(
        None, description="The directory of model files, for paths in settings"
    )
    oip_bind: str = Field("0.0.0.0", description="The address to listen at")
    oip_probe_port: int | None = Field(
        None, ge=0, le=65535, description="A plain HTTP port for probes; unset: none"
    )
    oip_tls_cert_file: str | None = Field(
        None, description="The certificate of both protocols, with its chain; PEM"
    )
    oip_tls_key_file: str | None = Field(None, description="The key to it; PEM")
    oip_tls_client_ca_file: str | None = Field(
        None, description="Who signs the certificates that clients then need; PEM"
    )
    oip_drain_delay_s: float = Field(
        5.0,
        ge=0,
        description="Seconds from 'not ready' to the end of new work, on SIGTERM",
        json_schema_extra=RELOADABLE,
    )
    oip_grace_period_s: float = Field(
        30.0,
        ge=0,
        description="Seconds that requests in flight then have to finish",
        json_schema_extra=RELOADABLE,
    )
    oip_max_body_bytes: int = Field(
        64 << 20,
        ge=1,
        description="The largest request body, by REST and by gRPC",
        json_schema_extra=RELOADABLE,
    )
    oip_max_header_bytes: int = Field(
        32 << 10,
        ge=1024,
        description="The largest head of a request",
        json_schema_extra=RELOADABLE,
    )
    oip_max_connections: int = Field(
        1000,
        ge=1,
        description="Connections at once by REST, and as many by gRPC",
        json_schema_extra=RELOADABLE,
    )
    oip_header_timeout_s: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds within which the head of a request is there",
        json_schema_extra=RELOADABLE,
    )
    oip_body_timeout_s: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds from its head within which the body is there",
        json_schema_extra=RELOADABLE,
    )
    oip_kept_memory_bytes: int = Field(
        256 << 20, ge=0, description="Free memory kept for the next tensors; 0: none"
    )
    oip_ray_address: str | None = Field(
        None, description="The Ray cluster for models with replicas; unset: an own one"
    )
    oip_ray_token_file: str | None = Field(
        None, description="The file with the token of that cluster"
    )
    oip_model_control: Literal["none", "explicit"] = Field(
        "none", description="Whether clients may load and unload models"
    )
    auth_enabled: bool = Field(
        False, description="Ask every client for a token, but for health"
    )
    auth_algorithm: str = Field(
        "HS256", description="How JWTs are signed; several are separated by commas"
    )
    auth_secret: SecretStr | None = Field(
        None, description="The secret that signs JWTs, for HS256, HS384 and HS512"
    )
    auth_secret_file: str | None = Field(None, description="The file with that secret")
    auth_jwks_file: str | None = Field(
        None, description="The file with the public keys of JWTs, a JWKS"
    )
    auth_audience: str | None = Field(
        None, description="What a JWT has to have as its `aud`; unset: anything"
    )
    auth_issuer: str | None = Field(
        None, description="What a JWT has to have as its `iss`; unset: anything"
    )
    auth_leeway_s: float = Field(
        10.0,
        ge=0,
        le=300,
        description="Seconds by which the clock of who signs JWTs may differ",
    )
    auth_default_scopes: str = Field(
        "", description="The scopes of a JWT that has no claim of scopes"
    )
    auth_tokens_file: str | None = Field(
        None, description="The file with the digests of static tokens and their scopes"
    )
    oip_models: dict[str, Any] = Field(
        default_factory=dict, description="Options by model name, as a JSON object"
    )

    @field_validator("oip_log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator(
        "kserve_max_asyncio_workers",
        "kserve_access_log_format",
        "oip_probe_port",
        "oip_tls_cert_file",
        "oip_tls_key_file",
        "oip_tls_client_ca_file",
        "oip_ray_address",
        "oip_ray_token_file",
        "oip_plugin_dir",
        "oip_plugin_cache",
        "oip_model_dir",
        "auth_secret",
        "auth_secret_file",
        "auth_jwks_file",
        "auth_audience",
        "auth_issuer",
        "auth_tokens_file",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value


@dataclass(frozen=True)
class Configuration:
    """The options in effect, where each came from, and what is left for others."""

    settings: Settings = field(default_factory=Settings)
    origins: Values = field(default_factory=dict)
    kserve_arguments: tuple[str, ...] = ()
    """Container arguments that are not the host's, for KServe's own parser."""
    warnings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    """All container arguments, to read the configuration again."""

    def effective(self) -> Iterator[tuple[str, str, str]]:
        """Each server option as (name, value, source), secrets masked."""
        for name in Settings.model_fields:
            if name != MODELS:
                origin = self.origins.get((name,))
                value = getattr(self.settings, name)
                shown = origin.shown if origin and origin.secret else str(value)
                yield name, shown, origin.source if origin else "default"


def read(
    arguments: Sequence[str], environ: Mapping[str, str] | None = None
) -> tuple[Configuration, list[str]]:
    """The configuration from container arguments, environment and properties.

    With it comes one line for each unknown key and wrong value; such an option has its
    default, so that the faults of what follows can be told at the same time.
    """
    environ = os.environ if environ is None else environ
    options = list(Settings.model_fields)
    values, others, faults = from_arguments(arguments, options)
    for layer, wrong in (
        from_environment(environ, options),
        from_properties(options),
    ):
        # a name that two layers spell differently is settled later, by this order
        below = {path: layer[path] for path in layer if path not in values}
        values = {**below, **values}
        faults += wrong
    settings, wrong = validated(Settings, values)
    if settings is None:
        settings = Settings(**_valid_only(nested(values)))
    warnings = (*_misspelt(environ), *absent())
    found = Configuration(settings, values, tuple(others), warnings, tuple(arguments))
    return found, [*faults, *wrong]


def reloadable(model: type[BaseModel]) -> frozenset[str]:
    """The options of a class that may change while the host runs."""
    marked = (
        name
        for name, option in model.model_fields.items()
        if option.json_schema_extra == RELOADABLE
    )
    return frozenset(marked)


def _valid_only(tree: dict[str, Any]) -> dict[str, Any]:
    """What is left of the options without those that do not validate."""
    try:
        Settings(**tree)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors()}
        return {name: value for name, value in tree.items() if name not in wrong}
    return tree


def validated(
    model: type[M], values: Values, prefix: str = "", tree: dict[str, Any] | None = None
) -> tuple[M | None, list[str]]:
    """An instance of a pydantic model and no faults, or None and a line for each.

    `prefix` stands before the name of an option that nobody set; `tree` replaces the
    object that `values` make up.
    """
    try:
        return model(**(nested(values) if tree is None else tree)), []
    except ValidationError as error:
        return None, [_fault(model, e, values, prefix) for e in error.errors()]


def _fault(model: type[BaseModel], detail: Any, values: Values, prefix: str) -> str:
    """One line for one of pydantic's errors: source, what was found and expected."""
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
    """Who set the value at a path, or else one above or below it."""
    for known, origin in values.items():
        if path and (known[: len(path)] == path or path[: len(known)] == known):
            return origin
    return None


def _misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    """Warnings for variables that look like a misspelt option.

    Not faults: Kubernetes itself sets such variables for a service named oip-host.
    """
    known = [name.upper() for name in Settings.model_fields]
    others = (*known, *KSERVES, WORKER)
    for name in environ:
        if name.startswith(_PREFIXES) and name not in others:
            close = nearest(name, known)
            if close and not name.startswith("OIP_MODELS__"):
                yield f"{name}: no such option{close}"
