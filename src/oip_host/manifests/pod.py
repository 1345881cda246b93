"""The pod that serves: its container with probes, limits and variables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oip_host.config.settings import Settings
from oip_host.manifests.environment import ContainerEnvironment, escape
from oip_host.manifests.target import Target
from oip_host.workers import supervisor

__all__ = ["CONTAINER", "Document", "Pod", "list_variables"]

Document = dict[str, Any]

CONTAINER = "kserve-container"
"""The name that KServe expects of the container that serves."""
STARTUP_S, STARTUP_PERIOD_S = 300, 5
"""Seconds for the imports before the host listens; models load after that."""


@dataclass(frozen=True)
class Pod:
    """The pod that the options in effect describe."""

    target: Target
    settings: Settings
    environment: ContainerEnvironment
    arguments: tuple[str, ...] = ()
    """Container arguments that are KServe's own."""
    tls: bool = False

    @property
    def stop_s(self) -> int:
        """Seconds from SIGTERM to the end of the host, at the latest."""
        drain_s = self.settings.oip_drain_delay_s + self.settings.oip_grace_period_s
        return math.ceil(drain_s + supervisor.MARGIN_S)

    @property
    def health_port(self) -> int:
        """The port of probes and metrics; Knative has one port only."""
        apart = None if self.target.knative else self.settings.oip_probe_port
        return apart or self.settings.kserve_http_port

    @property
    def shared(self) -> bool:
        """Whether probes and metrics share the port of the models."""
        return self.health_port == self.settings.kserve_http_port

    @property
    def _health_scheme(self) -> str:
        return "HTTPS" if self.tls and self.shared else "HTTP"

    def ports(self) -> list[Document]:
        """Return the named ports, that of REST first, which KServe's service uses."""
        rest = "http1" if self.target.knative else "http"
        ports = [(rest, self.settings.kserve_http_port)]
        if not self.target.knative:  # it allows one port only
            if self.settings.kserve_enable_grpc:
                ports.append(("grpc", self.settings.kserve_grpc_port))
            if not self.shared:
                ports.append(("health", self.health_port))
        return [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in ports
        ]

    def annotations(self) -> dict[str, str]:
        """Return where Prometheus and KServe's aggregation find the metrics."""
        port = str(self.health_port)
        scheme = self._health_scheme.lower()
        return {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": port,
            "prometheus.io/path": "/metrics",
            **({"prometheus.io/scheme": scheme} if scheme == "https" else {}),
            "prometheus.kserve.io/port": port,
            "prometheus.kserve.io/path": "/metrics",
        }

    def container(self, variables: Mapping[str, Document]) -> Document:
        """Return the container that serves."""
        arguments = [escape(argument) for argument in self.arguments]
        return {
            "name": CONTAINER,
            "image": self.target.image,
            **({"args": arguments} if arguments else {}),
            "env": list_variables(variables),
            "ports": self.ports(),
            **self._probes(),
            **self._bounds(),
        }

    def spec(self) -> Document:
        """Return the fields of the pod beside its container."""
        return {
            # a service named kserve-http would set KSERVE_HTTP_PORT
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            **self._termination(),
            **({"initContainers": [self._check()]} if self.target.check else {}),
        }

    def volumes(self) -> list[Document]:
        """Return the volumes to write to, since the root file system is read-only."""
        return [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]

    def variables(self, *, models: bool) -> dict[str, Document]:
        """Return the variables of the server, and of the models if asked for."""
        home = {"HOME": {"value": "/tmp"}}
        return {
            **home,
            **self.environment.server,
            **(self.environment.models if models else {}),
        }

    def _termination(self) -> Document:
        """Return the time that the pod has to end, in seconds."""
        if self.target.knative:
            return {"timeout": max(300, self.stop_s)}  # also its grace period
        return {"terminationGracePeriodSeconds": self.stop_s}

    def _check(self) -> Document:
        """Return the init container that checks the configuration."""
        arguments = [escape(argument) for argument in self.arguments]
        return {
            "name": "check",
            "image": self.target.image,
            "command": ["oip-host", "check", *arguments],
            "env": list_variables(self.variables(models=True)),
            **self._bounds(),
        }

    def _probes(self) -> Document:
        """Return the probes: live when the host listens, ready when the models are.

        A model that fails to load keeps the pod from being ready, and never restarts
        it: the others serve, and the reason can be read.
        """
        live, ready = "/v2/health/live", "/v2/health/ready"
        attempts = STARTUP_S // STARTUP_PERIOD_S
        return {
            "startupProbe": self._probe(live, STARTUP_PERIOD_S, attempts),
            "livenessProbe": self._probe(live, 10, 3),
            "readinessProbe": self._probe(ready, 5, 3),
        }

    def _probe(self, path: str, period_s: int, attempts: int) -> Document:
        """Return a probe that fails after so many attempts."""
        request = {
            "path": path,
            "port": self.health_port,
            "scheme": self._health_scheme,
        }
        return {
            "httpGet": request,
            "periodSeconds": period_s,
            "timeoutSeconds": 5,
            "failureThreshold": attempts,
        }

    def _bounds(self) -> Document:
        """Return what a container may use and do, and where it may write."""
        # limits too: without one KServe adds its own default of 1 CPU
        amount = {"cpu": self.target.cpu, "memory": self.target.memory}
        return {
            "resources": {"requests": dict(amount), "limits": dict(amount)},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        }


def list_variables(variables: Mapping[str, Document]) -> list[Document]:
    """Return variables as a container lists them, sorted by name."""
    return [{"name": name, **variables[name]} for name in sorted(variables)]
