"""The target of a manifest: names, sizes and the kind of cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from oip_host.config.settings import Settings
from oip_host.config.sources import from_arguments
from oip_host.config.validation import validate

__all__ = ["Target", "find_conflicts", "read"]


def _matches(pattern: str, expected: str) -> AfterValidator:
    """Return a validator of text in a form that Kubernetes requires."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError("form", f"expected {expected}")
        return text

    return AfterValidator(check)


# KServe derives names of up to 63 characters from it
_Name = Annotated[
    str,
    _matches(
        r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
        "at most 40 lower-case letters, digits and hyphens, a letter first",
    ),
]
_Namespace = Annotated[
    str,
    _matches(
        r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        "at most 63 lower-case letters, digits and hyphens",
    ),
]
_Quantity = Annotated[
    str,
    _matches(
        r"(?=.*[1-9])\d+(\.\d+)?(m|[kMGTPE]|[KMGTPE]i)?",
        "a quantity such as 500m or 2Gi",
    ),
]
_Filled = Annotated[str, _matches(r"\S+", "text without spaces")]


def _image() -> str:
    """Return the image that `make image` builds."""
    return f"oip-host:{version('oip-host')}"


class Target(BaseModel):
    """The options of `oip-host manifest` itself."""

    model_config = ConfigDict(frozen=True)

    name: _Name = Field(
        "oip-host", description="Name of the InferenceService or Deployment"
    )
    namespace: _Namespace | None = Field(
        None, description="Kubernetes namespace; unset: the current one of kubectl"
    )
    image: _Filled = Field(
        default_factory=_image, description="Container image, with your plugins"
    )
    mode: Literal[
        "Standard", "Knative", "RawDeployment", "Serverless", "Deployment"
    ] = Field(
        "Standard",
        description="KServe deployment mode; Deployment: a cluster without KServe",
    )
    runtime: Literal["none", "namespaced", "cluster"] = Field(
        "none",
        description="Also print a ServingRuntime or ClusterServingRuntime, and use it",
    )
    storage_uri: _Filled | None = Field(
        None,
        description="Model files that KServe downloads to /mnt/models before the start",
    )
    cpu: _Quantity = Field("1", description="CPU request and limit")
    memory: _Quantity = Field("2Gi", description="Memory request and limit")
    min_replicas: int = Field(1, ge=0, description="Minimum number of pods")
    max_replicas: int | None = Field(
        None, ge=1, description="Maximum number of pods; unset: KServe's default"
    )
    check: bool = Field(
        False, description="Run oip-host check in an init container before the start"
    )

    @property
    def knative(self) -> bool:
        """Whether Knative runs the pods; KServe before 0.16 calls it Serverless."""
        return self.mode in ("Knative", "Serverless")

    @property
    def has_kserve(self) -> bool:
        """Whether KServe runs the pods, rather than Kubernetes alone."""
        return self.mode != "Deployment"

    @property
    def secret(self) -> str:
        """The name of the Secret that holds the values of secret options."""
        return f"{self.name}-secrets"


def read(arguments: Sequence[str]) -> tuple[Target, list[str], list[str]]:
    """Return the target, the arguments that are not its own, and its faults.

    The arguments are those that the host's own options leave over.
    """
    values, others, faults = from_arguments(arguments, Target.model_fields)
    target, wrong = validate(Target, values, "--")
    return target or Target(), others, [*faults, *wrong]


def find_conflicts(target: Target, settings: Settings, has_tls: bool) -> Iterator[str]:
    """Yield a line for each reason why this cannot be deployed as it is configured."""
    yield from _require_kserve(target)
    yield from _require_reachable(settings)
    if target.check and target.storage_uri is not None:
        yield "--check: runs before KServe downloads the --storage_uri, leave it out"
    if target.check and target.runtime != "none":
        yield "--check: a runtime has no init containers, leave it out"
    if target.max_replicas is not None and target.max_replicas < target.min_replicas:
        yield (
            f"--max_replicas: found {target.max_replicas}, expected at least "
            f"{target.min_replicas}, the --min_replicas"
        )
    if target.min_replicas == 0 and not target.knative:
        yield "--min_replicas: found 0, expected at least 1 (only Knative allows 0)"
    if target.knative and has_tls:
        yield (
            f"--mode={target.mode}: Knative uses plain HTTP to the container, leave "
            "the certificate to its gateway"
        )


def _require_kserve(target: Target) -> Iterator[str]:
    """Yield a line for each option that a cluster without KServe cannot satisfy."""
    if target.has_kserve:
        return
    if target.runtime != "none":
        yield "--runtime: needs KServe, not --mode=Deployment"
    if target.storage_uri is not None:
        yield "--storage_uri: needs KServe, not --mode=Deployment"
    if target.max_replicas is not None:
        yield "--max_replicas: needs KServe, not --mode=Deployment"


def _require_reachable(settings: Settings) -> Iterator[str]:
    """Yield a line for each reason why a cluster could not reach the host."""
    bind = settings.oip_bind
    if bind in ("localhost", "::1") or bind.startswith("127."):
        yield f"oip_bind: found {bind!r}, expected 0.0.0.0 or ::"
    for port in ("kserve_http_port", "kserve_grpc_port", "oip_probe_port"):
        if getattr(settings, port) == 0:
            yield f"{port}: found 0, expected a number that the manifest can name"
    if settings.oip_tls_client_ca_file and settings.oip_probe_port is None:
        yield "oip_tls_client_ca_file: probes have no certificate, set oip_probe_port"
