"""The files in `deploy/` are the output of `oip-host manifest`, and are valid."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.documents import ROOT
from support.helm import CHART, HelmError, installed
from support.manifests import container, printed, variables
from support.process import run
from support.schemas import wrong

KUSTOMIZE = ROOT / "deploy" / "kustomize"
kustomize = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="kubectl is not installed"
)
# `make test-all` installs it; it is large and supports only some Pythons
helm = pytest.mark.skipif(
    importlib.util.find_spec("helm_sdkpy") is None, reason="helm-sdkpy is not installed"
)


def built(directory: Path) -> list[Any]:
    done = run("kubectl", "kustomize", str(directory))
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


PRINTED = {
    "base": [],
    "runtime": ["--runtime=cluster"],
    "deployment": ["--mode=Deployment"],
    "overlays/knative": ["--mode=Knative", "--min_replicas=0"],
}
OVERLAYS = [path.parent for path in sorted(KUSTOMIZE.rglob("kustomization.yaml"))]


@kustomize
@pytest.mark.parametrize(("name", "arguments"), PRINTED.items(), ids=list(PRINTED))
def test_kustomize_builds_what_the_command_prints(
    name: str, arguments: list[str]
) -> None:
    """The directories hold the command's output: print them again after a change."""
    found = {document["kind"]: document for document in built(KUSTOMIZE / name)}
    assert {document["kind"]: document for document in printed(*arguments)} == found


@kustomize
@pytest.mark.parametrize("path", OVERLAYS, ids=lambda p: str(p.relative_to(KUSTOMIZE)))
def test_every_kustomization_is_valid(path: Path) -> None:
    """The schemas accept all documents that each directory builds."""
    found = built(path)
    assert found
    assert [wrong(document) for document in found] == [[] for _ in found]


@kustomize
def test_an_overlay_changes_the_image_and_the_namespace() -> None:
    """Kustomize's own fields work in an InferenceService; no other field is lost."""
    found = {d["kind"]: d for d in built(KUSTOMIZE / "overlays" / "production")}
    service = found["InferenceService"]
    serving = container(service)
    assert "registry.example.com/models/oip-host:1.0" == serving["image"]
    assert "models" == service["metadata"]["namespace"]
    assert {"HOME", "OIP_HANDLERS", "PROTOCOL"} == set(variables(service))
    assert "/v2/health/ready" == serving["readinessProbe"]["httpGet"]["path"]


# -- the chart ----------------------------------------------------------------


def test_the_chart_has_the_version_of_the_project() -> None:
    """A chart deploys the image of its own version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in project
    assert chart["version"] == chart["appVersion"]


def plain(document: Any) -> Any:
    """Return a document without Helm's additions, with `OIP_MODELS` as an object."""
    metadata = document["metadata"]
    for part, added in (("annotations", "meta.helm.sh"), ("labels", "managed-by")):
        kept = {k: v for k, v in metadata.get(part, {}).items() if added not in k}
        metadata.pop(part, None)
        metadata.update({part: kept} if kept else {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(each) for each in node]
        if not isinstance(node, dict):
            return node
        if node.get("name") == "OIP_MODELS":
            return {**node, "value": json.loads(node["value"])}
        return {key: walk(each) for key, each in node.items()}

    return walk(document)


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "as it is": ({}, []),
    "options": (
        {
            "handlers": "echo=fakes:Echo",
            "image": "example.com/me:1",
            "models": {"echo": {"max_queue": 8, "settings": {"path": "/m", "k": [1]}}},
            "env": {"OIP_TLS_CERT_FILE": "/crt", "KSERVE_ACCESS_LOG_FORMAT": "$(A) 1"},
            "secretEnv": ["OIP_MODELS__ECHO__SETTINGS__TOKEN", "AUTH_SECRET"],
            "args": ["--model_name=$x"],
            "tls": True,
            "ports": {"http": 9000, "grpc": 9001},
            "drainDelaySeconds": 7.5,
            "gracePeriodSeconds": 60,
            "replicas": {"min": 2, "max": 3},
            "resources": {"cpu": "500m", "memory": "1Gi"},
            "check": True,
        },
        [
            "--handlers=echo=fakes:Echo", "--image=example.com/me:1",
            '--models={"echo": {"max_queue": 8, "settings": {"path": "/m", "k": [1]}}}',
            "--models.echo.settings.token=x", "--auth_secret=x",
            "--tls_cert_file=/crt", "--access_log_format=$(A) 1",
            "--model_name=$x", "--http_port=9000", "--grpc_port=9001",
            "--drain_delay_s=7.5", "--grace_period_s=60", "--min_replicas=2",
            "--max_replicas=3", "--cpu=500m", "--memory=1Gi", "--check=true",
        ],
    ),
    "Knative without gRPC": (
        {"mode": "Knative", "replicas": {"min": 0}, "ports": {"grpc": 0}},
        ["--mode=Knative", "--min_replicas=0", "--enable_grpc=false"],
    ),
    "storage": ({"storageUri": "s3://a/b"}, ["--storage_uri=s3://a/b"]),
    "runtime alone": ({"runtime": "cluster"}, ["--runtime=cluster"]),
    "runtime": (
        {"runtime": "namespaced", "storageUri": "s3://a/b", "handlers": "*"},
        ["--runtime=namespaced", "--storage_uri=s3://a/b", "--handlers=*"],
    ),
    "without KServe": (
        {"mode": "Deployment", "check": True},
        ["--mode=Deployment", "--check=true"],
    ),
}  # fmt: skip


@pytest.mark.slow
@helm
@pytest.mark.parametrize(("values", "arguments"), CASES.values(), ids=list(CASES))
def test_the_chart_installs_what_the_command_prints(
    values: dict[str, Any], arguments: list[str]
) -> None:
    """For equal choices Helm creates the documents that the command prints."""
    created = installed(values)
    assert [wrong(document) for document in created] == [[] for _ in created]
    expected = printed("--namespace=ml", *arguments)
    by_kind = {document["kind"]: plain(document) for document in created}
    assert by_kind == {document["kind"]: plain(document) for document in expected}


@pytest.mark.slow
@helm
def test_chart_adds_volumes_and_pod_fields() -> None:
    """Volumes, mounts and fields of the pod are added to the chart's own."""
    volume = {"name": "plugins", "persistentVolumeClaim": {"claimName": "plugins"}}
    mount = {"name": "plugins", "mountPath": "/plugins"}
    pod = {"nodeSelector": {"gpu": "yes"}, "serviceAccountName": "models"}
    values = {"volumes": [volume], "volumeMounts": [mount], "podSpec": pod}
    (document,) = installed(values, release="mine")
    assert [] == wrong(document)
    assert "mine" == document["metadata"]["name"]
    predictor = document["spec"]["predictor"]
    assert volume in predictor["volumes"]
    assert "tmp" == predictor["volumes"][0]["name"]
    assert mount in predictor["containers"][0]["volumeMounts"]
    assert pod.items() <= predictor.items()


@pytest.mark.slow
@helm
@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"handler": "iris"}, "handler"),
        ({"env": {"OIP_HANDLERS": "iris"}}, "OIP_HANDLERS"),
        ({"env": {"OIP_MAX_CONNECTIONS": 7}}, "string"),
        ({"mode": "Deployment", "runtime": "cluster"}, "needs KServe"),
        ({"check": True, "storageUri": "s3://a"}, "check: runs before"),
        ({"replicas": {"min": 0}}, "needs Knative"),
    ],
    ids=["unknown", "twice", "no text", "no KServe", "check", "no replicas"],
)
def test_chart_refuses_wrong_values(values: dict[str, Any], fault: str) -> None:
    """Values that cannot be deployed are refused with the reason."""
    with pytest.raises(HelmError, match=fault):
        installed(values)
