"""Manifests are valid for Kubernetes and KServe, complete, and run unchanged."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from oip_host.config.configuration import read
from oip_host.config.settings import Settings
from oip_host.config.sources import MODELS, flag, nest
from oip_host.errors import ConfigurationError
from oip_host.manifests import documents as manifest
from oip_host.manifests.target import Target
from support.documents import tables
from support.manifests import configure, container, printed, variables
from support.process import COMMAND, clean_environment, oip_host, run, wait_for
from support.schemas import wrong

ECHO = "--handlers=echo=fakes:Echo"


def faults(*arguments: str) -> list[str]:
    """Return the faults of arguments for which no manifest is made."""
    with pytest.raises(ConfigurationError) as caught:
        configure(*arguments)
    return list(caught.value.faults)


# -- validity -----------------------------------------------------------------

KINDS = {
    "as it is": ([], ["InferenceService"]),
    "Knative": (["--mode=Knative", "--min_replicas=0"], ["InferenceService"]),
    "legacy names": (["--mode=RawDeployment"], ["InferenceService"]),
    "storage": (["--storage_uri=pvc://models/a"], ["InferenceService"]),
    "check": (["--check=true", "--max_replicas=4"], ["InferenceService"]),
    "KServe's arguments": (["--model_name=x"], ["InferenceService"]),
    "runtime": (["--runtime=namespaced", "--namespace=ml"], ["ServingRuntime"]),
    "cluster runtime": (
        ["--runtime=cluster", "--storage_uri=s3://a/b"],
        ["ClusterServingRuntime", "InferenceService"],
    ),
    "without KServe": (
        ["--mode=Deployment", "--check=true"],
        ["Deployment", "Service"],
    ),
}


@pytest.mark.parametrize(("arguments", "kinds"), KINDS.values(), ids=list(KINDS))
def test_a_manifest_is_valid(arguments: list[str], kinds: list[str]) -> None:
    """The schemas of KServe and Kubernetes accept every field of every document."""
    found = printed(ECHO, "--models.echo.settings.token=x", *arguments)
    assert kinds == [document["kind"] for document in found]
    assert [wrong(document) for document in found] == [[] for _ in kinds]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda d: d["spec"].update(predictr={}), "predictr"),
        (lambda d: d["spec"]["predictor"].update(minReplicas="1"), "minReplicas"),
        (lambda d: container(d)["startupProbe"].update(tries=3), "tries"),
        (lambda d: container(d)["ports"][0].pop("containerPort"), "containerPort"),
    ],
    ids=["unknown field", "wrong type", "unknown field in depth", "missing field"],
)
def test_schemas_reject_a_wrong_manifest(
    change: Callable[[Any], Any], fault: str
) -> None:
    """The schemas of the tests reject wrong, misplaced and missing fields."""
    (document,) = copy.deepcopy(printed(ECHO))
    change(document)
    assert any(fault in line for line in wrong(document))


# -- contents -----------------------------------------------------------------


def test_every_option_that_is_set_is_in_the_manifest(tmp_path: Path) -> None:
    """The host in the container reads the same options, whatever their source."""
    (tmp_path / "oip.properties").write_text("oip_max_connections=7\n")
    env = {
        "KRAUSENING_BASE": str(tmp_path),
        "OIP_MODELS__ECHO__MAX_QUEUE": "8",
        "OIP_MODELS": '{"echo": {"settings": {"sizes": [1, 2], "of": {"a": null}}}}',
        "KSERVE_LOGLEVEL": "10",
    }
    arguments = [ECHO, "--http_port=9000", "--access_log_format=$(HOME) $$ %(x)s"]
    done = oip_host("manifest", *arguments, env=env)
    assert done.returncode == 0, done.stderr
    given = variables(yaml.safe_load(done.stdout))
    inside = {k: v.replace("$$", "$") for k, v in given.items() if isinstance(v, str)}
    configuration, wrong_ = read([], inside)
    assert wrong_ == []
    settings = configuration.settings
    assert 9000 == settings.kserve_http_port
    assert 7 == settings.oip_max_connections
    assert "$(HOME) $$ %(x)s" == settings.kserve_access_log_format
    assert "echo=fakes:Echo" == settings.oip_handlers
    assert nest(configuration.origins)[MODELS] == {
        "echo": {"max_queue": "8", "settings": {"sizes": [1, 2], "of": {"a": None}}}
    }
    assert "10" == given["KSERVE_LOGLEVEL"]
    untouched = [name for name in Settings.model_fields if name.upper() not in given]
    assert {"oip_bind", "kserve_workers"} <= set(untouched)


def test_a_secret_is_not_printed() -> None:
    """A reference replaces each secret, and the notes say which secret to create."""
    env = {"OIP_MODELS__ECHO_2_X__SETTINGS__API_KEY": "s3cret"}
    arguments = [
        "--handlers=echo=fakes:Echo,echo-2.x=fakes:Echo",
        "--name=ml",
        "--models.echo.settings.password=s3cret",
        "--models.echo.settings.pin=1234",
        "--ray_token_file=/run/token",
    ]
    done = oip_host("manifest", *arguments, env=env)
    assert done.returncode == 0
    assert "s3cret" not in done.stdout + done.stderr
    (document,) = yaml.safe_load_all(done.stdout)
    given = variables(document)
    names = [
        "OIP_MODELS__ECHO_2_X__SETTINGS__API_KEY",
        "OIP_MODELS__ECHO__SETTINGS__PASSWORD",
    ]
    for name in names:
        assert given[name] == {"secretKeyRef": {"name": "ml-secrets", "key": name}}
        assert f"--from-literal={name}=..." in done.stderr
    assert given["OIP_RAY_TOKEN_FILE"] == "/run/token"
    assert "--ray_token_file (/run/token): has to exist" in done.stderr
    assert "only a handler knows what is secret: echo.settings.pin" in done.stderr


HARD = [
    *("1e3", "0o14", "0x1F", "1_000", "yes", "null", "~", ".inf", "2001-01-01"),
    *("a: b # c", "- x", " x ", "x\ny\n", "'\"", "\N{SNOWMAN}\t\\", "{{.Name}}"),
]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubernetes_reads_the_values_that_were_set(tmp_path: Path) -> None:
    """YAML readers differ on 1e3 and 0o14; Kubernetes reads the values as set."""
    names = [f"manifest-{number}.yaml" for number in range(len(HARD))]
    for number, (name, value) in enumerate(zip(names, HARD, strict=True)):
        arguments = [ECHO, f"--access_log_format={value}", f"--name=n{number}"]
        pod, _ = configure(*arguments)
        (tmp_path / name).write_text(manifest.dump(manifest.documents(pod)))
    (tmp_path / "kustomization.yaml").write_text(json.dumps({"resources": names}))
    done = run("kubectl", "kustomize", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = {d["metadata"]["name"]: d for d in yaml.safe_load_all(done.stdout)}
    for number, value in enumerate(HARD):
        given = variables(found[f"n{number}"])
        assert value == given["KSERVE_ACCESS_LOG_FORMAT"], value


def test_the_grace_period_covers_the_drain() -> None:
    """Kubernetes kills only after the host's own limits; Knative uses its timeout."""
    times = [ECHO, "--drain_delay_s=20.5", "--grace_period_s=300"]
    (standard,) = printed(*times)
    assert 329 == standard["spec"]["predictor"]["terminationGracePeriodSeconds"]
    (knative,) = printed(*times, "--mode=Knative")
    assert "terminationGracePeriodSeconds" not in knative["spec"]["predictor"]
    assert 329 == knative["spec"]["predictor"]["timeout"]


def test_ports_and_probes_follow_the_options() -> None:
    """REST comes first, gRPC follows where a name is possible, and probes use TLS."""
    (standard,) = printed(ECHO, "--http_port=9000", "--tls_cert_file=/tls/tls.crt")
    assert [("http", 9000), ("grpc", 8081)] == [
        (port["name"], port["containerPort"]) for port in container(standard)["ports"]
    ]
    ready = container(standard)["readinessProbe"]["httpGet"]
    assert ready == {"path": "/v2/health/ready", "port": 9000, "scheme": "HTTPS"}
    assert "args" not in container(standard)
    (kserves,) = printed(ECHO, "--model_name=$(x)")
    assert ["--model_name=$$(x)"] == container(kserves)["args"]
    (knative,) = printed(ECHO, "--mode=Serverless")
    assert [("http1", 8080)] == [
        (port["name"], port["containerPort"]) for port in container(knative)["ports"]
    ]
    (alone,) = printed(ECHO, "--enable_grpc=false")
    assert ["http"] == [port["name"] for port in container(alone)["ports"]]


def test_probes_and_scrapes_use_the_probe_port() -> None:
    """With `--probe_port` probes and scrapes leave the REST port, except on Knative."""
    arguments = [ECHO, "--probe_port=9090", "--tls_cert_file=/tls/tls.crt"]
    (document,) = printed(*arguments)
    live = container(document)["livenessProbe"]["httpGet"]
    assert live == {"path": "/v2/health/live", "port": 9090, "scheme": "HTTP"}
    scraped = document["spec"]["predictor"]["annotations"]
    assert "9090" == scraped["prometheus.io/port"]
    (knative,) = printed(ECHO, "--probe_port=9090", "--mode=Knative")
    assert 8080 == container(knative)["livenessProbe"]["httpGet"]["port"]


def test_runtime_has_the_server_and_service_the_models() -> None:
    """Many services can use one runtime; each service names its own models."""
    arguments = [ECHO, "--storage_uri=s3://a/b", "--max_connections=9"]
    runtime, service = printed(*arguments, "--runtime=namespaced", "--name=ml")
    assert "multiModel" not in runtime["spec"]
    assert {"HOME", "OIP_MAX_CONNECTIONS"} == set(variables(runtime))
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert "s3://a/b" == model["storageUri"]
    assert [{"name": "OIP_HANDLERS", "value": "echo=fakes:Echo"}] == model["env"]


def test_a_runtime_without_storage_comes_alone() -> None:
    """KServe would add an agent to a service with a runtime and no storage."""
    done = oip_host("manifest", ECHO, "--runtime=cluster")
    assert "InferenceService" not in done.stdout
    assert "without an InferenceService" in done.stderr


# -- refusals -----------------------------------------------------------------

REFUSED = {
    "selection": (["--handlers=nowhere"], "no installed handler is named 'nowhere'"),
    "option": (["--models.echo.max_queu=1"], "unknown option, nearest: 'max_queue'"),
    "argument": (["--imag=x"], "unknown argument '--imag=x'"),
    "name": (["--name=My_Models"], "--name: found 'My_Models', expected at most 40"),
    "quantity": (["--memory=2 GB"], "--memory: found '2 GB', expected a quantity"),
    "no CPU": (["--cpu=0"], "--cpu: found '0', expected a quantity"),
    "mode": (["--mode=standard"], "--mode: found 'standard', expected 'Standard'"),
    "no value": (["--name"], "--name: found no value, expected --name=…"),
    "empty image": (["--image="], "--image: found '', expected text without spaces"),
    "port": (["--http_port=0"], "kserve_http_port: found 0, expected a number"),
    "loopback": (["--bind=127.0.0.1"], "oip_bind: found '127.0.0.1'"),
    "replicas": (["--min_replicas=3", "--max_replicas=2"], "expected at least 3"),
    "no replicas": (["--min_replicas=0"], "--min_replicas: found 0"),
    "no KServe": (["--mode=Deployment", "--storage_uri=s3://a"], "needs KServe"),
    "check": (["--check=true", "--storage_uri=s3://a"], "--check: runs before"),
    "no init": (["--check=true", "--runtime=cluster"], "has no init containers"),
    "probe port": (["--probe_port=0"], "oip_probe_port: found 0"),
    "client's certificates": (["--tls_client_ca_file=/x"], "set oip_probe_port"),
    "TLS": (["--mode=Knative", "--tls_cert_file=/x"], "plain HTTP"),
    "secret": (
        ["--models.echo.settings.apiToken=x"],
        "that no variable of this name can carry",
    ),
}


@pytest.mark.parametrize(("arguments", "fault"), REFUSED.values(), ids=list(REFUSED))
def test_undeployable_options_are_refused(arguments: list[str], fault: str) -> None:
    """A wrong option prints no manifest, and one error line with the reason."""
    (line,) = faults(ECHO, *arguments)
    assert fault in line


def test_all_faults_are_reported_at_once() -> None:
    """Each fault in any part of the configuration has its own line."""
    wrong_ = ["--handlers=nowhere", "--cpu=x", "--http_port=y", "--bind=::1"]
    done = oip_host("manifest", *wrong_)
    assert (2, "") == (done.returncode, done.stdout)
    told = done.stderr.splitlines()
    assert 4 == len([line for line in told if line.startswith("error: ")]) == len(told)


def test_options_differ_from_those_of_serve() -> None:
    """No option of the command has the name of an option of `serve`."""
    assert not {flag(n) for n in Target.model_fields} & {
        flag(n) for n in Settings.model_fields
    }


def test_every_option_of_the_command_is_listed() -> None:
    """The documentation lists each option with its default and its description."""
    rows = tables("kubernetes.md")["option|default"]
    shown = {name: default for name, default, _ in rows}
    assert [row[2] for row in rows] == [
        option.description for option in Target.model_fields.values()
    ]
    for name, option in Target.model_fields.items():
        default = option.get_default(call_default_factory=True)
        assert shown[f"`{flag(name)}`"] == f"`{default}`"


def test_help_lists_the_options() -> None:
    """`--help` has every option of the command."""
    told = oip_host("manifest", "--help").stdout
    assert [n for n in Target.model_fields if flag(n) not in told] == []


# -- running ------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        pair = [one, other][:count]
        for each in pair:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in pair]


def probe(asked: Any) -> bool:
    """Probe as the kubelet does: any status from 200 to 399 is success."""
    url = f"{asked['scheme'].lower()}://127.0.0.1:{asked['port']}{asked['path']}"
    try:
        return 200 <= httpx.get(url, timeout=5).status_code < 400
    except httpx.TransportError:
        return False


def passes(check: Any, process: subprocess.Popen[bytes]) -> None:
    """Wait for a probe's success as long as the kubelet would."""

    def answered() -> bool:
        assert process.poll() is None, "the container ended"
        return probe(check["httpGet"])

    limit_s = check["periodSeconds"] * check["failureThreshold"]
    wait_for(answered, f"probe {check['httpGet']['path']}", min(limit_s, 60))


@pytest.fixture
def containers() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Run a container's command locally with only its own environment."""
    running: list[subprocess.Popen[bytes]] = []

    def start(found: Any, command: Sequence[str]) -> subprocess.Popen[bytes]:
        path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
        given = {v["name"]: v["value"].replace("$$", "$") for v in found["env"]}
        handlers = clean_environment()["PYTHONPATH"]
        given |= {"PATH": path, "PYTHONPATH": handlers, "OIP_BIND": "127.0.0.1"}
        process = subprocess.Popen([*command, *found.get("args", [])], env=given)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_manifest_runs_unchanged(
    containers: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Its command serves, its probes succeed, and its grace period is long enough."""
    http_port, grpc_port = free_ports(2)
    (document,) = printed(
        ECHO, "--models.echo.max_queue=3", "--drain_delay_s=0.1", "--grace_period_s=1",
        f"--http_port={http_port}", f"--grpc_port={grpc_port}", "--check=true",
    )  # fmt: skip
    predictor = document["spec"]["predictor"]
    found = container(document)
    (check,) = predictor["initContainers"]
    checked = containers(check, check["command"])
    assert 0 == checked.wait(timeout=60)
    process = containers(found, ["oip-host", "serve"])
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        passes(found[name], process)
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [2.0]}]}
    url = f"http://127.0.0.1:{http_port}"
    answer = httpx.post(f"{url}/v2/models/echo/infer", content=json.dumps(body))
    assert 200 == answer.status_code
    port = predictor["annotations"]["prometheus.io/port"]
    path = predictor["annotations"]["prometheus.io/path"]
    metrics = httpx.get(f"http://127.0.0.1:{port}{path}").text
    assert 'oip_model_ready{model_name="echo"' in metrics
    began = time.monotonic()
    process.terminate()
    assert 0 == process.wait(timeout=predictor["terminationGracePeriodSeconds"])
    assert time.monotonic() - began < predictor["terminationGracePeriodSeconds"]


def test_a_manifest_needs_no_server() -> None:
    """Making a manifest imports neither kserve, nor grpc, nor the handlers."""
    program = (
        "import sys\n"
        "sys.argv = ['oip-host', 'manifest', '--handlers=iris=fakes:Echo']\n"
        "from oip_host.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('#', [n for n in ('kserve', 'fakes', 'grpc') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(), capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert "# []" == done.stdout.splitlines()[-1]
