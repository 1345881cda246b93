"""The Kubernetes documents that run the host as it is configured here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pluggy
import yaml

from oip_host.config import model_options as options
from oip_host.config import selection, settings
from oip_host.config.settings import KSERVES
from oip_host.errors import ConfigurationError
from oip_host.manifests import target
from oip_host.manifests.environment import carried, escaped
from oip_host.manifests.pod import Document, Pod, listed
from oip_host.plugins import discovery as plugins

__all__ = ["configured", "documents", "notices", "text"]

FORMAT = "oip-handler"
"""The model format for which KServe selects the runtime."""


def configured(
    arguments: Sequence[str], manager: pluggy.PluginManager
) -> tuple[Pod, list[str]]:
    """What is to be deployed, and warnings; imports no handler.

    Raises ConfigurationError with every fault of the options, the selection and what
    the manifest is made for.
    """
    configuration, faults = settings.read(arguments)
    aim, others, wrong = target.read(configuration.kserve_arguments)
    tls, unknown = _of_kserve(others)
    tls |= configuration.settings.oip_tls_cert_file is not None
    wanted, malformed = selection.parse(configuration.settings.oip_handlers)
    choices, missing = plugins.choose(wanted, plugins.offered(manager))
    keys = [(choice.item.model, choice.item.version) for choice in choices]
    values, warnings = options.by_model(configuration.origins, keys)
    taken = carried(configuration, keys, aim.secret)
    faults += [*wrong, *unknown, *malformed, *missing, *taken.faults]
    for key in keys:
        faults += options.model_options(key, values[key])[1]
    faults += target.unfit(aim, configuration.settings, tls)
    if faults:
        raise ConfigurationError(faults)
    pod = Pod(aim, configuration.settings, taken, tuple(others), tls)
    return pod, [*configuration.warnings, *warnings]


def _of_kserve(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether KServe's own options ask for TLS, and the faults of those options."""
    if not arguments and not any(os.environ.get(name) for name in KSERVES):
        return False, []
    from oip_host.kserve.api import server_arguments

    known, faults = server_arguments(arguments)
    return bool(getattr(known, "ssl_certfile", None)), faults


def documents(pod: Pod) -> list[Document]:
    """An InferenceService, with a runtime where one is asked for, or a Deployment.

    Without a storage URI a runtime comes alone: KServe takes a service with a runtime
    and nothing to fetch for one that TrainedModels manage, and adds an agent to it.
    """
    aim = pod.target
    if not aim.has_kserve:
        return [_deployment(pod), _service(pod)]
    if aim.runtime == "none":
        variables = pod.variables(models=True)
        # KServe's default is V1
        variables["PROTOCOL"] = {"value": "v2"}
        if aim.storage_uri is not None:
            variables["STORAGE_URI"] = {"value": escaped(aim.storage_uri)}
        containers = [pod.container(variables)]
        return [_inference_service(pod, {"containers": containers}, pod.volumes())]
    if aim.storage_uri is None:
        return [_runtime(pod)]
    return [_runtime(pod), _inference_service(pod, {"model": _model(pod)}, [])]


def notices(pod: Pod) -> Iterator[str]:
    """What a manifest cannot hold, and whoever applies it has to see to."""
    aim, known = pod.target, pod.carried
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
        yield f"{file}: has to be there in the container; mount it"
    if known.open_settings:
        yield (
            "settings of handlers are printed as they are, for only a handler can tell "
            f"what is secret: {', '.join(known.open_settings)}"
        )
    if aim.runtime != "none" and aim.storage_uri is None:
        yield (
            "the runtime comes without an InferenceService, for KServe needs a "
            "--storage_uri in one; for models from the image leave --runtime out"
        )
    if aim.knative and pod.settings.kserve_enable_grpc:
        yield "Knative exposes one port, which is that of REST; gRPC is not reached"
    if aim.knative and aim.check:
        yield (
            "Knative takes init containers only where its feature "
            "kubernetes.podspec-init-containers is enabled"
        )


def text(found: Iterable[Document]) -> str:
    """The documents as YAML that every reader understands in the same way."""
    return yaml.dump_all(
        found, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf")
    )


class _Dumper(yaml.SafeDumper):
    """YAML in which what could be a number is quoted, and nothing is an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # PyYAML leaves 1e3 bare, which Kubernetes reads as a number
    bare = value[:1].isalpha() or value[:1] == "/"
    style = None if bare else "'" if '"' in value else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _quoted)


def _metadata(pod: Pod, name: str) -> Document:
    namespace = pod.target.namespace
    return {"name": name, **({"namespace": namespace} if namespace else {})}


def _inference_service(
    pod: Pod, served: Document, volumes: Sequence[Document]
) -> Document:
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
    """What the service adds to its runtime."""
    variables = pod.carried.models
    return {
        "modelFormat": {"name": FORMAT, "version": "1"},
        "runtime": _runtime_name(pod),
        "protocolVersion": "v2",
        "storageUri": pod.target.storage_uri,
        **({"env": listed(variables)} if variables else {}),
    }


def _runtime_name(pod: Pod) -> str:
    return f"{pod.target.name}-runtime"


def _runtime(pod: Pod) -> Document:
    """The runtime without the models; `multiModel` means ModelMesh, and is unset."""
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
    return {
        "app.kubernetes.io/name": "oip-host",
        "app.kubernetes.io/instance": pod.target.name,
    }


def _deployment(pod: Pod) -> Document:
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
