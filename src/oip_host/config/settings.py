"""Every option of the server, declared once.

A value comes from the first of: a program's code, container argument, environment
variable, Krausening property (`oip.properties`), default. The names follow from the
declared one: `kserve_http_port` is `--http_port`, `KSERVE_HTTP_PORT` and the property
`kserve_http_port`. The options of a single model are in `config/model_options.py`.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from oip_host.config.sources import MODELS

__all__ = [
    "KSERVE_VARIABLES",
    "MODELS_DESCRIPTION",
    "OPTIONS",
    "RELOADABLE",
    "WORKER",
    "Panel",
    "Settings",
    "panel_of",
    "reloadable_options",
]

RELOADABLE: dict[str, Any] = {"reloadable": True}
"""Marks an option that may change while the host runs, where it is declared."""

WORKER = "OIP_WORKER"
"""The environment variable that tells a worker process which worker it is."""

KSERVE_VARIABLES = (
    "KSERVE_LOGLEVEL",
    "KSERVE_OPENAI_ROUTE_PREFIX",
    "KSERVE_TLS_CERT_FILE",
    "KSERVE_TLS_KEY_FILE",
)
"""Variables that KServe itself reads."""


class Panel(str, Enum):
    """The subjects by which `--help` groups the options, in its order."""

    SERVER = "Server"
    MODELS = "Models"
    LIMITS = "Limits"
    TLS = "TLS"
    AUTHENTICATION = "Authentication"
    OBSERVABILITY = "Observability"
    RAY = "Ray"


class Settings(BaseModel):
    """The options of the server.

    The first nine are aiSSEMBLE's, name by name.
    """

    model_config = ConfigDict(frozen=True)

    kserve_http_port: Annotated[int, Panel.SERVER] = Field(
        8080, ge=0, le=65535, description="HTTP port; 0: any free port"
    )
    kserve_grpc_port: Annotated[int, Panel.SERVER] = Field(
        8081, ge=0, le=65535, description="gRPC port; 0: any free port"
    )
    kserve_workers: Annotated[int, Panel.SERVER] = Field(
        1, ge=1, description="Number of server processes, which share the ports"
    )
    kserve_max_threads: Annotated[int, Panel.SERVER] = Field(
        4, ge=1, description="Maximum number of threads that process gRPC requests"
    )
    kserve_max_asyncio_workers: Annotated[int | None, Panel.SERVER] = Field(
        None,
        ge=1,
        description="Maximum number of asyncio worker threads; unset: Python's default",
    )
    kserve_enable_grpc: Annotated[bool, Panel.SERVER] = Field(
        True, description="Serve gRPC beside REST"
    )
    kserve_enable_docs_url: Annotated[bool, Panel.SERVER] = Field(
        False, description="Serve Swagger UI at /docs"
    )
    kserve_enable_latency_logging: Annotated[bool, Panel.OBSERVABILITY] = Field(
        True, description="Log one line with the times of each request"
    )
    kserve_access_log_format: Annotated[str | None, Panel.OBSERVABILITY] = Field(
        None,
        description="Access log format, as asgi-logger reads it; unset: no access log",
    )
    oip_handlers: Annotated[str | None, Panel.MODELS] = Field(
        None,
        description="Models to serve and their handlers; unset: all installed handlers",
    )
    oip_log_format: Annotated[Literal["text", "json"], Panel.OBSERVABILITY] = Field(
        "text",
        description="Log format: text as KServe writes it, or one JSON object per line",
    )
    oip_log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Panel.OBSERVABILITY
    ] = Field(
        "INFO",
        description="Minimum log level",
        json_schema_extra=RELOADABLE,
    )
    oip_tracing: Annotated[bool, Panel.OBSERVABILITY] = Field(
        False,
        description="Trace requests with OpenTelemetry, set up by its OTEL_* variables",
    )
    oip_plugin_dir: Annotated[str | None, Panel.MODELS] = Field(
        None, description="Directory of wheels to load handlers from; unset: none"
    )
    oip_plugin_cache: Annotated[str | None, Panel.MODELS] = Field(
        None,
        description="Directory to install these wheels in; unset: a temporary one",
    )
    oip_model_dir: Annotated[str | None, Panel.MODELS] = Field(
        None,
        description="Directory of model files, the base of relative paths in settings",
    )
    oip_bind: Annotated[str, Panel.SERVER] = Field(
        "0.0.0.0", description="Address to listen on"
    )
    oip_probe_port: Annotated[int | None, Panel.SERVER] = Field(
        None,
        ge=0,
        le=65535,
        description="Extra plain HTTP port for probes and metrics; unset: none",
    )
    oip_tls_cert_file: Annotated[str | None, Panel.TLS] = Field(
        None, description="Server certificate with its chain, for REST and gRPC (PEM)"
    )
    oip_tls_key_file: Annotated[str | None, Panel.TLS] = Field(
        None, description="Private key (PEM)"
    )
    oip_tls_client_ca_file: Annotated[str | None, Panel.TLS] = Field(
        None,
        description="CA bundle: if set, clients must present a certificate (mTLS; PEM)",
    )
    oip_drain_delay_s: Annotated[float, Panel.SERVER] = Field(
        5.0,
        ge=0,
        description="Time between SIGTERM and rejecting new requests, in seconds",
        json_schema_extra=RELOADABLE,
    )
    oip_grace_period_s: Annotated[float, Panel.SERVER] = Field(
        30.0,
        ge=0,
        description="Time that requests in flight then have to finish, in seconds",
        json_schema_extra=RELOADABLE,
    )
    oip_max_body_bytes: Annotated[int, Panel.LIMITS] = Field(
        64 << 20,
        ge=1,
        description="Largest request body, in bytes",
        json_schema_extra=RELOADABLE,
    )
    oip_max_header_bytes: Annotated[int, Panel.LIMITS] = Field(
        32 << 10,
        ge=1024,
        description="Largest request head, in bytes",
        json_schema_extra=RELOADABLE,
    )
    oip_max_connections: Annotated[int, Panel.LIMITS] = Field(
        1000,
        ge=1,
        description="Maximum number of open connections, for REST and for gRPC each",
        json_schema_extra=RELOADABLE,
    )
    oip_header_timeout_s: Annotated[float, Panel.LIMITS] = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="Time to receive the head of a request, in seconds",
        json_schema_extra=RELOADABLE,
    )
    oip_body_timeout_s: Annotated[float, Panel.LIMITS] = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Time to receive the body of a request after its head, in seconds",
        json_schema_extra=RELOADABLE,
    )
    oip_kept_memory_bytes: Annotated[int, Panel.LIMITS] = Field(
        256 << 20,
        ge=0,
        description="Free memory kept for the next tensors, in bytes; 0: none",
    )
    oip_ray_address: Annotated[str | None, Panel.RAY] = Field(
        None,
        description="Ray cluster for models with replicas; unset: start a local one",
    )
    oip_ray_token_file: Annotated[str | None, Panel.RAY] = Field(
        None, description="File with the token of that Ray cluster"
    )
    oip_model_control: Annotated[Literal["none", "explicit"], Panel.MODELS] = Field(
        "none",
        description="explicit: clients can load and unload models; none: they cannot",
    )
    auth_enabled: Annotated[bool, Panel.AUTHENTICATION] = Field(
        False,
        description="Require a token from every client except on health endpoints",
    )
    auth_algorithm: Annotated[str, Panel.AUTHENTICATION] = Field(
        "HS256", description="Allowed signature algorithms of JWTs, separated by commas"
    )
    auth_secret: Annotated[SecretStr | None, Panel.AUTHENTICATION] = Field(
        None, description="Shared secret that verifies JWTs (HS256, HS384, HS512)"
    )
    auth_secret_file: Annotated[str | None, Panel.AUTHENTICATION] = Field(
        None, description="File with that shared secret"
    )
    auth_jwks_file: Annotated[str | None, Panel.AUTHENTICATION] = Field(
        None, description="File with the public keys that verify JWTs (JWKS)"
    )
    auth_audience: Annotated[str | None, Panel.AUTHENTICATION] = Field(
        None, description="Required `aud` claim of a JWT; unset: any"
    )
    auth_issuer: Annotated[str | None, Panel.AUTHENTICATION] = Field(
        None, description="Required `iss` claim of a JWT; unset: any"
    )
    auth_leeway_s: Annotated[float, Panel.AUTHENTICATION] = Field(
        10.0,
        ge=0,
        le=300,
        description="Allowed clock skew when JWTs are verified, in seconds",
    )
    auth_default_scopes: Annotated[str, Panel.AUTHENTICATION] = Field(
        "",
        description="Scopes of a JWT without a scope claim, separated by spaces",
    )
    auth_tokens_file: Annotated[str | None, Panel.AUTHENTICATION] = Field(
        None, description="File with the digests of static tokens and their scopes"
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


OPTIONS = (*Settings.model_fields, MODELS)
"""Every option of the server; the last one holds the options of models."""
MODELS_DESCRIPTION = "Model options by model name, as a JSON object"


def panel_of(option: str) -> Panel:
    """Return the subject by which `--help` groups an option."""
    if option == MODELS:
        return Panel.MODELS
    metadata = Settings.model_fields[option].metadata
    return next(each for each in metadata if isinstance(each, Panel))


def reloadable_options(model: type[BaseModel]) -> frozenset[str]:
    """Return the options of a class that may change while the host runs."""
    marked = (
        name
        for name, option in model.model_fields.items()
        if option.json_schema_extra == RELOADABLE
    )
    return frozenset(marked)
