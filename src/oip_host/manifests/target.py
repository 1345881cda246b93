"""What a manifest is made for: names, sizes and the kind of cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from oip_host.config.settings import Settings, validated
from oip_host.config.sources import from_arguments

__all__ = ["Target", "read", "unfit"]


def _spelled(pattern: str, expected: str) -> AfterValidator:
    """Text of a form that Kubernetes asks for."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError("form", f"expected {expected}")
        return text

    return AfterValidator(check)


# KServe derives names from it, which may have 63 characters
_Name = Annotated[
    str,
    _spelled(
        r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
        "at most 40 lower-case letters, digits and hyphens, a letter first",
    ),
]
_Namespace = Annotated[
    str,
    _spelled(
        r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        "at most 63 lower-case letters, digits and hyphens",
    ),
]
_Quantity = Annotated[
    str,
    _spelled(
        r"(?=.*[1-9])\d+(\.\d+)?(m|[kMGTPE]|[KMGTPE]i)?",
        "a quantity such as 500m or 2Gi",
    ),
]
_Filled = Annotated[str, _spelled(r"\S+", "text without spaces")]


def _image() -> str:
    return f"oip-host:{version('oip-host')}"


class Target(BaseModel):
    """The options of `oip-host manifest` itself."""

    model_config = ConfigDict(frozen=True)

    name: _Name = Field("oip-host", description="The name of what is deployed")
    namespace: _Namespace | None = Field(
        None, description="Its namespace; unset: that of whoever applies the manifest"
    )
    image: _Filled = Field(
        default_factory=_image, description="The container image, with your plugins"
    )
    mode: Literal[
        "Standard", "Knative", "RawDeployment", "Serverless", "Deployment"
    ] = Field(
        "Standard",
        description="KServe's deployment mode; Deployment: a cluster without KServe",
    )
    runtime: Literal["none", "namespaced", "cluster"] = Field(
        "none",
        description="Print a ServingRuntime or a ClusterServingRuntime too, and use it",
    )
    storage_uri: _Filled | None = Field(
        None, description="What KServe brings to /mnt/models before the start"
    )
    cpu: _Quantity = Field("1", description="CPUs, as request and as limit")
    memory: _Quantity = Field("2Gi", description="Memory, as request and as limit")
    min_replicas: int = Field(1, ge=0, description="Pods that there are at least")
    max_replicas: int | None = Field(
        None, ge=1, description="Pods that there are at most; unset: KServe's choice"
    )
    check: bool = Field(
        False, description="Run oip-host check in an init container before the start"
    )

    @property
    def knative(self) -> bool:
        """Whether Knative runs the pods; KServe before 0.16 says Serverless."""
        return self.mode in ("Knative", "Serverless")

    @property
    def has_kserve(self) -> bool:
        """Whether KServe runs it, and not a Deployment of Kubernetes alone."""
        return self.mode != "Deployment"

    @property
    def secret(self) -> str:
        """The name of the Secret that holds the values of secret options."""
        return f"{self.name}-secrets"


def read(arguments: Sequence[str]) -> tuple[Target, list[str], list[str]]:
    """The target, the arguments that are not its own, and a line for each fault.

    Takes what `settings.read` left over.
    """
    values, others, faults = from_arguments(arguments, Target.model_fields)
    target, wrong = validated(Target, values, "--")
    return target or Target(), others, [*faults, *wrong]


def unfit(target: Target, settings: Settings, tls: bool) -> list[str]:
    """What cannot be deployed as it is configured, a line for each fault."""
    wrong: list[tuple[bool, str]] = [
        *_alone(target),
        *_reachable(settings),
        (
            target.check and target.storage_uri is not None,
            "--check: runs before KServe brings what --storage_uri names, leave it out",
        ),
        (
            target.check and target.runtime != "none",
            "--check: a runtime has no init containers, leave it out",
        ),
        (
            target.max_replicas is not None
            and target.max_replicas < target.min_replicas,
            f"--max_replicas: found {target.max_replicas}, expected at least "
            f"{target.min_replicas}, the --min_replicas",
        ),
        (
            target.min_replicas == 0 and not target.knative,
            "--min_replicas: found 0, expected at least 1 (Knative alone takes 0)",
        ),
        (
            target.knative and tls,
            f"--mode={target.mode}: Knative asks the container in plain HTTP, leave "
            "the certificate to its gateway",
        ),
    ]
    return [fault for holds, fault in wrong if holds]


def _alone(target: Target) -> list[tuple[bool, str]]:
    """What only KServe has."""
    kserves: dict[str, Any] = {
        "--runtime": target.runtime != "none",
        "--storage_uri": target.storage_uri is not None,
        "--max_replicas": target.max_replicas is not None,
    }
    return [
        (
            not target.has_kserve and given,
            f"{name}: needs KServe, not --mode=Deployment",
        )
        for name, given in kserves.items()
    ]


def _reachable(settings: Settings) -> list[tuple[bool, str]]:
    """Where a cluster could not ask the host."""
    loopback = settings.oip_bind in ("localhost", "::1")
    loopback |= settings.oip_bind.startswith("127.")
    ports = ("kserve_http_port", "kserve_grpc_port", "oip_probe_port")
    unasked = settings.oip_tls_client_ca_file and settings.oip_probe_port is None
    fixed = "expected a number that the manifest can name"
    return [
        (loopback, f"oip_bind: found {settings.oip_bind!r}, expected 0.0.0.0 or ::"),
        *((getattr(settings, p) == 0, f"{p}: found 0, {fixed}") for p in ports),
        (
            bool(unasked),
            "oip_tls_client_ca_file: probes have no certificate, set oip_probe_port",
        ),
    ]
