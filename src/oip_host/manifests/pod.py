"""The pod that serves: its container with probes, limits and variables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oip_host.config.settings import Settings
from oip_host.manifests.environment import Carried, escaped
from oip_host.manifests.target import Target
from oip_host.workers import supervisor as workers

__all__ = ["CONTAINER", "Pod"]

Document = dict[str, Any]

CONTAINER = "kserve-container"
"""The name by which KServe knows the container that serves."""
STARTUP_S, STARTUP_PERIOD_S = 300, 5
"""Seconds for the imports before the host listens; models load after that."""


@dataclass(frozen=True)
class Pod:
    """What runs in a pod, from the options in effect."""

    target: Target
    settings: Settings
    carried: Carried
    arguments: tuple[str, ...] = ()
    """Container arguments that are KServe's own."""
    tls: bool = False

    @property
    def stop_s(self) -> int:
        """Seconds from SIGTERM within which the host has ended, of its own accord."""
        drain_s = self.settings.oip_drain_delay_s + self.settings.oip_grace_period_s
        return math.ceil(drain_s + workers.MARGIN_S)

    @property
    def health_port(self) -> int:
        """The port of the probes and of the metrics; Knative asks one port only."""
        apart = None if self.target.knative else self.settings.oip_probe_port
        return apart or self.settings.kserve_http_port

    @property
    def shared(self) -> bool:
        """Whether probes and metrics are at the port of the models."""
        return self.health_port == self.settings.kserve_http_port

    @property
    def _health_scheme(self) -> str:
        return "HTTPS" if self.tls and self.shared else "HTTP"

    def ports(self) -> list[Document]:
        """The named ports, that of REST first; KServe's service asks the first."""
        rest = "http1" if self.target.knative else "http"
        found = [(rest, self.settings.kserve_http_port)]
        if not self.target.knative:  # which takes one port only
            if self.settings.kserve_enable_grpc:
                found.append(("grpc", self.settings.kserve_grpc_port))
            if not self.shared:
                found.append(("health", self.health_port))
        return [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in found
        ]

    def annotations(self) -> dict[str, str]:
        """Where Prometheus finds the metrics, and KServe's aggregation of them."""
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
        """The container that serves."""
        arguments = [escaped(argument) for argument in self.arguments]
        return {
            "name": CONTAINER,
            "image": self.target.image,
            **({"args": arguments} if arguments else {}),
            "env": listed(variables),
            "ports": self.ports(),
            **self._probes(),
            **self._bounds(),
        }

    def spec(self) -> Document:
        """The fields of the pod beside its container."""
        return {
            # a service named kserve-http would set KSERVE_HTTP_PORT
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            **self._ending(),
            **({"initContainers": [self._check()]} if self.target.check else {}),
        }

    def volumes(self) -> list[Document]:
        """What takes the place of the file system that is read-only."""
        return [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]

    def variables(self, *, models: bool) -> dict[str, Document]:
        """What the container needs in any case, the server's options, the models'."""
        home = {"HOME": {"value": "/tmp"}}
        return {
            **home,
            **self.carried.server,
            **(self.carried.models if models else {}),
        }

    def _ending(self) -> Document:
        if self.target.knative:
            return {"timeout": max(300, self.stop_s)}  # its grace period, too
        return {"terminationGracePeriodSeconds": self.stop_s}

    def _check(self) -> Document:
        arguments = [escaped(argument) for argument in self.arguments]
        return {
            "name": "check",
            "image": self.target.image,
            "command": ["oip-host", "check", *arguments],
            "env": listed(self.variables(models=True)),
            **self._bounds(),
        }

    def _probes(self) -> Document:
        """Live as soon as the host listens, ready when the models are.

        A model that does not load keeps the pod from being ready, and never restarts
        it: the others serve, and the reason stays to be read.
        """
        live, ready = "/v2/health/live", "/v2/health/ready"
        attempts = STARTUP_S // STARTUP_PERIOD_S
        return {
            "startupProbe": self._probe(live, STARTUP_PERIOD_S, attempts),
            "livenessProbe": self._probe(live, 10, 3),
            "readinessProbe": self._probe(ready, 5, 3),
        }

    def _probe(self, path: str, period_s: int, attempts: int) -> Document:
        asked = {"path": path, "port": self.health_port, "scheme": self._health_scheme}
        return {
            "httpGet": asked,
            "periodSeconds": period_s,
            "timeoutSeconds": 5,
            "failureThreshold": attempts,
        }

    def _bounds(self) -> Document:
        """What a container may use and do, and where it may write."""
        # limits too: KServe adds its own default of 1 CPU where there is none
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


def listed(variables: Mapping[str, Document]) -> list[Document]:
    """Variables as a container lists them, by name."""
    return [{"name": name, **variables[name]} for name in sorted(variables)]
