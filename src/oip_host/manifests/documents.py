"""The Kubernetes documents that run the host as it is configured here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from oip_host.config.configuration import Configuration
from oip_host.config.model_options import Key, group_by_model, parse_model_options
from oip_host.config.settings import KSERVE_VARIABLES
from oip_host.errors import ConfigurationError
from oip_host.manifests import target
from oip_host.manifests.environment import container_environment, escape
from oip_host.manifests.pod import Document, Pod, list_variables

__all__ = ["configure", "documents", "dump", "notices"]

FORMAT = "oip-handler"
"""The model format for which KServe selects the runtime."""


def configure(
    configuration: Configuration, models: Sequence[Key], faults: Sequence[str]
) -> tuple[Pod, list[str]]:
    """Return what is to be deployed, and warnings; imports no handler.

    Raises ConfigurationError with these faults and those of the models' options and of
    the manifest's own.
    """
    settings = configuration.settings
    aim, others, wrong = target.read(configuration.kserve_arguments)
    has_kserve_tls, unknown = _parse_kserve_arguments(others)
    has_tls = has_kserve_tls or settings.oip_tls_cert_file is not None
    values, warnings = group_by_model(configuration.origins, models)
    environment = container_environment(configuration, models, aim.secret)
    faults = [*faults, *wrong, *unknown, *environment.faults]
    for key in models:
        faults += parse_model_options(key, values[key])[1]
    faults += target.find_conflicts(aim, settings, has_tls)
    if faults:
        raise ConfigurationError(faults)
    pod = Pod(aim, settings, environment, tuple(others), has_tls)
    return pod, [*configuration.warnings, *warnings]


def _parse_kserve_arguments(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Return whether KServe's own options ask for TLS, and the faults of them."""
    if not arguments and not any(os.environ.get(name) for name in KSERVE_VARIABLES):
        return False, []
    from oip_host.kserve.api import server_arguments

    known, faults = server_arguments(arguments)
    return bool(getattr(known, "ssl_certfile", None)), faults


def documents(pod: Pod) -> list[Document]:
    """Return an InferenceService, with a runtime if wanted, or a Deployment.

    Without a storage URI there is a runtime alone: a service with a runtime and nothing
    to download is to KServe one that TrainedModels manage, and it adds an agent to it.
    """
    aim = pod.target
    if not aim.has_kserve:
        return [_deployment(pod), _service(pod)]
    if aim.runtime == "none":
        variables = pod.variables(models=True)
        # KServe's default is V1
        variables["PROTOCOL"] = {"value": "v2"}
        if aim.storage_uri is not None:
            variables["STORAGE_URI"] = {"value": escape(aim.storage_uri)}
        containers = [pod.container(variables)]
        return [_inference_service(pod, {"containers": containers}, pod.volumes())]
    if aim.storage_uri is None:
        return [_runtime(pod)]
    return [_runtime(pod), _inference_service(pod, {"model": _model(pod)}, [])]


def notices(pod: Pod) -> Iterator[str]:
    """Yield what a manifest cannot hold, and is left to the one who applies it."""
    aim, known = pod.target, pod.environment
    if known.secrets:
        keys = " ".join(f"--from-literal={key}=..." for key in known.secrets)
        where = f" --namespace={aim.namespace}" if aim.namespace else ""
        yield (
            "secrets are not printed; create them: "
            f"kubectl create secret generic {aim.secret}{where} {keys}"
        )
    if pod.settings.auth_enabled and pod.shared:
        yield "/metrics needs a token; set oip_probe_port, or give Prometheus one"
    for file in known.files:
        yield f"{file}: has to exist in the container; mount it"
    if known.open_settings:
        yield (
            "settings of handlers are printed as they are, since only a handler knows "
            f"what is secret: {', '.join(known.open_settings)}"
        )
    if aim.runtime != "none" and aim.storage_uri is None:
        yield (
            "the runtime is printed without an InferenceService, which needs a "
            "--storage_uri; for models from the image leave --runtime out"
        )
    if aim.knative and pod.settings.kserve_enable_grpc:
        yield "Knative exposes one port, that of REST; gRPC cannot be reached"
    if aim.knative and aim.check:
        yield (
            "Knative accepts init containers only if its feature "
            "kubernetes.podspec-init-containers is enabled"
        )


def dump(documents: Iterable[Document]) -> str:
    """Return the documents as YAML that every reader understands in the same way."""
    return yaml.dump_all(
        documents,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=float("inf"),
    )


class _Dumper(yaml.SafeDumper):
    """YAML in which what could be a number is quoted, and nothing is an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return that everything is written in full."""
        return True


def _quote(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Return text with quotes if a reader could take it for something else."""
    # PyYAML leaves 1e3 bare, which Kubernetes reads as a number
    bare = value[:1].isalpha() or value[:1] == "/"
    style = None if bare else "'" if '"' in value else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _quote)


def _metadata(pod: Pod, name: str) -> Document:
    """Return the metadata of an object in the namespace, if one is given."""
    namespace = pod.target.namespace
    return {"name": name, **({"namespace": namespace} if namespace else {})}


def _inference_service(
    pod: Pod, served: Document, volumes: Sequence[Document]
) -> Document:
    """Return the InferenceService whose predictor serves what is given."""
    aim = pod.target
    mode = {"serving.kserve.io/deploymentMode": aim.mode}
    most = {"maxReplicas": aim.max_replicas} if aim.max_replicas else {}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {**_metadata(pod, aim.name), "annotations": mode},
        "spec": {
            "predictor": {
                "annotations": pod.annotations(),
                "minReplicas": aim.min_replicas,
                **most,
                **pod.spec(),
                **served,
                **({"volumes": list(volumes)} if volumes else {}),
            }
        },
    }


def _model(pod: Pod) -> Document:
    """Return what the service adds to its runtime."""
    variables = pod.environment.models
    return {
        "modelFormat": {"name": FORMAT, "version": "1"},
        "runtime": _runtime_name(pod),
        "protocolVersion": "v2",
        "storageUri": pod.target.storage_uri,
        **({"env": list_variables(variables)} if variables else {}),
    }


def _runtime_name(pod: Pod) -> str:
    """Return the name of the runtime."""
    return f"{pod.target.name}-runtime"


def _runtime(pod: Pod) -> Document:
    """Return the runtime without the models; `multiModel` would mean ModelMesh."""
    everywhere = pod.target.runtime == "cluster"
    name = _runtime_name(pod)
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ClusterServingRuntime" if everywhere else "ServingRuntime",
        "metadata": {"name": name} if everywhere else _metadata(pod, name),
        "spec": {
            "annotations": pod.annotations(),
            "supportedModelFormats": [
                {"name": FORMAT, "version": "1", "autoSelect": True, "priority": 1}
            ],
            "protocolVersions": ["v2", "grpc-v2"],
            "containers": [pod.container(pod.variables(models=False))],
            "volumes": pod.volumes(),
        },
    }


def _labels(pod: Pod) -> dict[str, str]:
    """Return the labels by which Service and Deployment find the pods."""
    return {
        "app.kubernetes.io/name": "oip-host",
        "app.kubernetes.io/instance": pod.target.name,
    }


def _deployment(pod: Pod) -> Document:
    """Return the Deployment for a cluster without KServe."""
    labels = _labels(pod)
    container = pod.container(pod.variables(models=True))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**_metadata(pod, pod.target.name), "labels": labels},
        "spec": {
            "replicas": pod.target.min_replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": pod.annotations()},
                "spec": {
                    **pod.spec(), "containers": [container], "volumes": pod.volumes(),
                },
            },
        },
    }  # fmt: skip


def _service(pod: Pod) -> Document:
    """Return the Service before the Deployment."""
    ports = [
        {"name": p["name"], "port": p["containerPort"], "targetPort": p["name"]}
        for p in pod.ports()
        if p["name"] != "health"
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**_metadata(pod, pod.target.name), "labels": _labels(pod)},
        "spec": {"selector": _labels(pod), "ports": ports},
    }
