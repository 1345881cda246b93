"""Statistics and configuration, as Triton's clients read them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from oip_host.models.server_state import EXTENSIONS
from support.control import NOT_FOUND, PROTOCOLS, described
from support.process import SUPPORT, Server, run
from support.wire import ONE, infer_both, infer_grpc, infer_rest, request, rpc

DURATIONS = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output",
    "cache_hit", "cache_miss",
)  # fmt: skip
UNKNOWN = "model 'nobody' is not on this server"


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    """A server with a separate model for each test that counts."""
    models = [
        *(f"{name}=fakes:Echo" for name in ("echo", "single", "crowd", "idle", "both")),
        "echo@2=fakes:Echo",
        "raises=fakes:Raises",
        "texts=fakes.v1:Texts",
        "double=fakes:KServeDouble",
        "undescribed=fakes:NoMetadata",
        "failed=fakes:LoadFalse?",
        "triton=fakes:Echo",
    ]
    with Server(f"--handlers={','.join(models)}", "--model_control=explicit") as server:
        yield server.wait_until_ready()


def stats(
    server: Server, model: str = "", version: str = "", protocol: str = "rest"
) -> list[dict[str, Any]]:
    """Return the `model_stats` of an answer."""
    document = described(server, protocol, "stats", model, version).document
    assert {"model_stats"} == set(document)
    found: list[dict[str, Any]] = document["model_stats"]
    return found


def counts(server: Server, model: str) -> dict[str, int]:
    """Return the counts, without zeros, of a model that has one version."""
    found = stats(server, model)[0]["inference_stats"]
    return {name: found[name]["count"] for name in found if found[name]["count"]}


def plain(value: Any) -> Any:
    """Return a protobuf document without zeros, and with its int64 texts as numbers."""
    if isinstance(value, dict):
        shown = {key: plain(one) for key, one in value.items()}
        return {key: one for key, one in shown.items() if one not in (0, [], {}, "")}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return int(value) if isinstance(value, str) and value.isdigit() else value


# -- statistics ---------------------------------------------------------------


def test_unused_model_has_all_fields_at_zero(host: Server) -> None:
    """Every field of the extension is there from the start, with the value 0."""
    nothing = {"count": 0, "ns": 0}
    expected = {
        "name": "idle",
        "version": "1",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": dict.fromkeys(DURATIONS, nothing),
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }
    assert [expected] == stats(host, "idle")


def test_success_is_counted_at_once(host: Server) -> None:
    """An answered request is in the statistics already, with its times."""
    before = time.time()
    for n in range(1, 6):
        assert 200 == infer_rest(host, "single", ONE).status
        found = stats(host, "single")[0]
        assert n == found["inference_count"] == found["execution_count"]
        timed = found["inference_stats"]
        once = ("success", "queue", "compute_input", "compute_infer", "compute_output")
        for name in once:
            assert n == timed[name]["count"]
        for name in ("fail", "cache_hit", "cache_miss"):
            assert {"count": 0, "ns": 0} == timed[name]
        assert 0 < timed["compute_infer"]["ns"] < timed["success"]["ns"]
        assert timed["success"]["ns"] >= timed["queue"]["ns"]
        batch = {name: timed[name] for name in once if name.startswith("compute")}
        assert [{"batch_size": 1, **batch}] == found["batch_stats"]
        # milliseconds, rounded down
        assert int(before * 1000) <= found["last_inference"] <= time.time() * 1000


@pytest.mark.parametrize("kind", ["RuntimeError", "ValueError", "wrong output"])
def test_failure_is_counted_as_failure_only(host: Server, kind: str) -> None:
    """A request that the handler fails counts as a failure and as nothing else."""
    before = counts(host, "raises").get("fail", 0)
    infer_both(host, "raises", request([kind], [1], "BYTES"))
    assert {"fail": before + 2} == counts(host, "raises")
    found = stats(host, "raises")[0]
    assert (0, 0) == (found["inference_count"], found["last_inference"])
    assert [] == found["batch_stats"]
    assert 0 < found["inference_stats"]["fail"]["ns"]


def test_both_protocols_and_v1_are_counted(host: Server) -> None:
    """A request counts on any protocol, for handlers and kserve.Models."""
    for model, instances in (("both", [[1, 2]]), ("double", [1])):
        infer_both(host, model, ONE)
        host.post(f"/v1/models/{model}:predict", json={"instances": instances})
        assert 3 == stats(host, model)[0]["inference_count"]
        assert 3 == counts(host, model)["success"]


def test_concurrent_requests_are_counted_exactly(host: Server) -> None:
    """The counts of concurrent requests are exact, for valid and for invalid ones."""
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(
                (infer_rest, infer_grpc)[n % 2],
                host,
                "crowd",
                request([1.0], [1 + n // 60]),  # the last 20 do not fit their shape
            )
            for n in range(80)
        ]
        statuses = [one.result().status for one in asked]
    assert 60 == sum(status in (200, "OK") for status in statuses)
    found = counts(host, "crowd")
    assert 60 == found["success"]
    # a request that the codec refuses does not reach the model
    assert found.get("fail", 0) <= 20


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_statistics_filter_by_model_and_version(host: Server, protocol: str) -> None:
    """Without a name all versions of all models are listed, otherwise the model's."""

    def versions(model: str = "", version: str = "") -> list[tuple[str, str]]:
        found = stats(host, model, version, protocol)
        return [(one["name"], one["version"]) for one in found]

    listed = versions()
    assert {("echo", "1"), ("echo", "2"), ("failed", "1")} < set(listed)
    assert 12 == len(listed) == len(set(listed))
    assert [("echo", "2"), ("echo", "1")] == versions("echo")
    assert [("echo", "1")] == versions("echo", "1")
    assert [("failed", "1")] == versions("failed")


def test_statistics_are_the_same_on_both_protocols(host: Server) -> None:
    """gRPC has the numbers of REST, in the same order."""
    infer_both(host, "texts", request(["a"], [1], "BYTES"))
    over_rest = plain(stats(host))
    over_grpc = plain(stats(host, protocol="grpc"))
    for one in (*over_rest, *over_grpc):
        one["version"] = str(one["version"])
    assert over_rest == over_grpc


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("what", ["stats", "config"])
@pytest.mark.parametrize(
    ("model", "version", "text"),
    [
        ("nobody", "", UNKNOWN),
        ("nobody", "1", UNKNOWN),
        ("echo", "3", "model 'echo' has no version '3', only 1, 2"),
    ],
    ids=["model", "model with version", "version"],
)
def test_unknown_model_or_version_is_not_found(
    host: Server, protocol: str, what: str, model: str, version: str, text: str
) -> None:
    """An unknown model or version gives the same text on both protocols."""
    reply = described(host, protocol, what, model, version)
    assert (NOT_FOUND[protocol], text) == (reply.status, reply.error)


# -- configuration ------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/versions/1"], ids=["newest", "named"])
def test_configuration_has_tritons_fields(host: Server, path: str) -> None:
    """The configuration lists the metadata's tensors as Triton's ModelConfig does."""
    tensor = {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2]}
    answer = host.get(f"/v2/models/echo{path}/config")
    assert 200 == answer.status_code
    assert {
        "name": "echo",
        "platform": "test",
        "backend": "python",
        "max_batch_size": 0,
        "input": [tensor],
        "output": [tensor],
    } == answer.json()


def test_bytes_are_strings_in_the_configuration(host: Server) -> None:
    """Triton's ModelConfig calls the datatype BYTES TYPE_STRING."""
    for protocol in PROTOCOLS:
        document = described(host, protocol, "config", "texts").document
        config = document.get("config", document)
        assert "TYPE_STRING" == config["input"][0]["data_type"]


def test_configuration_is_the_same_on_both_protocols(host: Server) -> None:
    """gRPC has the fields of REST."""
    over_rest = described(host, "rest", "config", "echo").document
    over_grpc = described(host, "grpc", "config", "echo").document["config"]
    for tensor in (*over_grpc["input"], *over_grpc["output"]):
        tensor["dims"] = [int(size) for size in tensor["dims"]]
    assert over_rest == {"max_batch_size": 0, **over_grpc}


@pytest.mark.parametrize(
    ("model", "rest", "code", "text"),
    [
        (
            "failed",
            503,
            "UNAVAILABLE",
            "model 'failed' version '1' is not ready: model_load returned False",
        ),
        ("undescribed", 501, "UNIMPLEMENTED", "there is nothing to describe"),
    ],
)
def test_unknown_configuration_is_an_error(
    host: Server, model: str, rest: int, code: str, text: str
) -> None:
    """A model that did not load or has no metadata gives an error with the reason."""
    for protocol, status in (("rest", rest), ("grpc", code)):
        reply = described(host, protocol, "config", model)
        assert (status, text) == (reply.status, reply.error)


# -- the server ---------------------------------------------------------------


def test_server_declares_the_extensions_it_serves(host: Server) -> None:
    """Each extension is declared once, by Triton's name, and answers."""
    expected = {
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
        "parameters",
        "statistics",
    }
    declared = host.get("/v2").json()["extensions"]
    assert sorted(expected) == sorted(declared) == sorted(EXTENSIONS)
    assert declared == list(rpc(host, "ServerMetadata").extensions)
    for method, path in (
        ("get", "/v2/models/echo/config"),
        ("get", "/v2/models/stats"),
        ("post", "/v2/repository/index"),
    ):
        assert 200 == getattr(host, method)(path).status_code


@pytest.mark.parametrize(
    "path",
    [
        "/v2/trace/setting",
        "/v2/logging",
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/status",
        "/v2/models/echo/generate",
    ],
)
def test_undeclared_extensions_are_not_found(host: Server, path: str) -> None:
    """The paths of Triton's other extensions are a 404."""
    answer = host.get(path)
    assert (404, {"error": f"no such path: {path}"}) == (
        answer.status_code,
        answer.json(),
    )


# -- Triton's clients ---------------------------------------------------------


@pytest.fixture(scope="module")
def triton(host: Server) -> Any:
    """The results of Triton's HTTP and gRPC clients, run one after the other."""
    pytest.importorskip("tritonclient")
    program = str(SUPPORT / "repository_triton.py")
    http = host.url.removeprefix("http://")
    done = run(sys.executable, program, http, host.grpc_address, "triton")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("client", "asked"), [("http", 1), ("grpc", 2)])
def test_tritons_clients_read_the_statistics(
    triton: Any, client: str, asked: int
) -> None:
    """The inferences of the clients are counted for all, one model and one version."""
    seen = triton[client]
    assert "no such output" in seen["failed"][1]
    one = [seen[key]["model_stats"] for key in ("model", "version")]
    assert one[0] == one[1]
    everything = seen["all"]["model_stats"]
    assert one[0] == [model for model in everything if model["name"] == "triton"]
    assert 12 == len(everything)
    found = one[0][0]
    assert ("triton", "1") == (found["name"], found["version"])
    assert asked == int(found["inference_count"])
    assert asked == int(found["inference_stats"]["success"]["count"])
    assert asked == int(found["inference_stats"]["fail"]["count"])
    assert asked == int(found["batch_stats"][0]["compute_infer"]["count"])
    assert 1 == int(found["batch_stats"][0]["batch_size"])


def test_tritons_clients_read_the_configuration(triton: Any) -> None:
    """The clients find the fields that a tool such as perf_analyzer needs."""
    for client, seen in triton.items():
        for key in ("config", "config of version"):
            config = seen[key].get("config", seen[key])
            assert ("triton", "python") == (config["name"], config["backend"]), client
            for tensor in (*config["input"], *config["output"]):
                assert ("x", "TYPE_FP32") == (tensor["name"], tensor["data_type"])
                assert [-1, 2] == [int(size) for size in tensor["dims"]]


@pytest.mark.parametrize("key", ["statistics", "config"])
def test_tritons_clients_raise_for_an_unknown_model(triton: Any, key: str) -> None:
    """Their exceptions have the status and the text."""
    assert ["404", UNKNOWN] == triton["http"]["unknown"][key]
    assert ["StatusCode.NOT_FOUND", UNKNOWN] == triton["grpc"]["unknown"][key]
