"""Clients by other authors: httpx, curl, and those of KServe and Triton."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from support.process import SUPPORT, Server, run
from support.wire import request, tensor

INFER = "/v2/models/echo/infer"
HEADER = "Inference-Header-Content-Length"
FAILED = "model 'failed' version '1' is not ready: model_load returned False"
UNKNOWN = "model 'nobody' is not on this server"
WRONG = "input 'x': shape [3] needs 3 elements, found 1"
LATE = "model 'late' did not answer within 0.2 s"
METADATA = {
    "name": "echo",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A host with a model that echoes, one that failed to load, and a late one."""
    gates = tmp_path_factory.mktemp("gates")
    with Server(
        "--handlers=echo=fakes:Echo,failed=fakes:LoadFalse?,late=fakes:Gated",
        "--models.late.timeout_s=0.2",
        env={"GATE_DIR": str(gates)},
    ) as server:
        yield server.wait_until_ready()
        (gates / "never.open").touch()


def answered(data: list[Any], shape: list[int], datatype: str) -> dict[str, Any]:
    """Return the answer of the echo model to one input."""
    outputs = [tensor(data, shape, datatype)]
    return {"model_name": "echo", "model_version": "1", "outputs": outputs}


def binary_request(size: int, more: dict[str, Any] | None = None) -> bytes:
    """The JSON part of a request whose one FP32 input follows it in binary form."""
    described: dict[str, Any] = {"name": "x", "shape": [size // 4], "datatype": "FP32"}
    described["parameters"] = {"binary_data_size": size}
    return json.dumps({"inputs": [described], **(more or {})}).encode()


def binary_answer(content: bytes, length: str) -> tuple[dict[str, Any], bytes]:
    """The JSON part of an answer and what follows it."""
    return json.loads(content[: int(length)]), content[int(length) :]


# -- httpx --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "datatype"),
    [([1.5, -2.0], "FP32"), (["text", "ü"], "BYTES")],
    ids=["fp32", "bytes"],
)
def test_httpx_infers(host: Server, data: list[Any], datatype: str) -> None:
    """A JSON request has a JSON answer of the announced type and length."""
    answer = host.post(INFER, json=request(data, [2], datatype))
    assert (200, answered(data, [2], datatype)) == (answer.status_code, answer.json())
    assert "application/json" == answer.headers["content-type"]
    assert str(len(answer.content)) == answer.headers["content-length"]


def test_httpx_sends_a_body_of_unknown_length(host: Server) -> None:
    """A chunked body is accepted."""
    body = json.dumps(request([1.5], [1])).encode()
    answer = host.post(INFER, content=iter([body[:7], body[7:]]))
    assert (200, [1.5]) == (answer.status_code, answer.json()["outputs"][0]["data"])


def test_httpx_sends_and_gets_binary_data(host: Server) -> None:
    """Tensors behind the JSON part, there and back, as the header announces them."""
    raw = np.array([1.5, -2.0, np.nan], np.float32).tobytes()
    head = binary_request(len(raw), {"parameters": {"binary_data_output": True}})
    answer = host.post(INFER, content=head + raw, headers={HEADER: str(len(head))})
    assert (200, "application/octet-stream") == (
        answer.status_code,
        answer.headers["content-type"],
    )
    document, rest = binary_answer(answer.content, answer.headers[HEADER])
    assert {"binary_data_size": 12} == document["outputs"][0]["parameters"]
    assert "data" not in document["outputs"][0]
    assert raw == rest


def test_httpx_gets_json_for_binary_data(host: Server) -> None:
    """Without binary_data_output the answer is plain JSON, in every part of it."""
    head = binary_request(4)
    answer = host.post(
        INFER,
        content=head + np.float32(1.5).tobytes(),
        headers={HEADER: str(len(head))},
    )
    assert answered([1.5], [1], "FP32") == answer.json()
    assert HEADER not in answer.headers


def test_httpx_asks_for_health_and_metadata(host: Server) -> None:
    """GET and HEAD are answered; HEAD without a body."""
    with httpx.Client(base_url=host.url, timeout=30) as client:
        assert {"live": True} == client.get("/v2/health/live").json()
        assert {"ready": True} == client.get("/v2/health/ready").json()
        assert METADATA == client.get("/v2/models/echo").json()
        head = client.head("/v2/models/echo")
        assert (200, b"") == (head.status_code, head.content)


@pytest.mark.parametrize(
    ("model", "asked", "status", "text"),
    [
        ("nobody", request([1.0], [1]), 404, UNKNOWN),
        ("failed", request([1.0], [1]), 503, FAILED),
        ("echo", request([1.0], [3]), 400, WRONG),
        ("late", request(["never"], [1], "BYTES"), 504, LATE),
    ],
    ids=["unknown", "failed", "wrong", "late"],
)
def test_httpx_gets_errors(
    host: Server, model: str, asked: Any, status: int, text: str
) -> None:
    """The status is HTTP's, and the body names the fault."""
    answer = host.post(f"/v2/models/{model}/infer", json=asked)
    assert (status, {"error": text}) == (answer.status_code, answer.json())


async def test_simultaneous_requests_get_their_own_answers(host: Server) -> None:
    """Answers are not mixed up between connections."""
    async with httpx.AsyncClient(base_url=host.url, timeout=30) as client:

        async def ask(n: int) -> dict[str, Any]:
            body = request([float(n)], [1], id=str(n))
            return dict((await client.post(INFER, json=body)).json())

        answers = await asyncio.gather(*(ask(n) for n in range(100)))
    for n, answer in enumerate(answers):
        assert {**answered([float(n)], [1], "FP32"), "id": str(n)} == answer


# -- curl ---------------------------------------------------------------------


def curl(host: Server, path: str, *options: str) -> tuple[int, bytes]:
    """Return the status and the body that curl gets."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    command = [program, "--silent", "--show-error", "--max-time", "30", "--noproxy",
               "*", "--write-out", "%{stderr}%{http_code}", *options]  # fmt: skip
    done = subprocess.run(
        [*command, host.url + path], capture_output=True, timeout=60, check=True
    )
    return int(done.stderr), done.stdout


@pytest.mark.parametrize(
    ("data", "datatype"),
    [([1.5, -2.0], "FP32"), (["text", "ü"], "BYTES")],
    ids=["fp32", "bytes"],
)
def test_curl_infers(host: Server, data: list[Any], datatype: str) -> None:
    """The documented request works unchanged, without a content type."""
    status, body = curl(host, INFER, "-d", json.dumps(request(data, [2], datatype)))
    assert (200, answered(data, [2], datatype)) == (status, json.loads(body))


def test_curl_sends_and_gets_binary_data(host: Server, tmp_path: Path) -> None:
    """A file of JSON and bytes goes there and comes back."""
    raw = np.array([1.5, -2.0], np.float32).tobytes()
    head = binary_request(len(raw), {"parameters": {"binary_data_output": True}})
    (tmp_path / "body").write_bytes(head + raw)
    status, body = curl(
        host,
        INFER,
        *("--data-binary", f"@{tmp_path / 'body'}", "-H", f"{HEADER}: {len(head)}"),
    )
    assert 200 == status
    assert body.endswith(b"}]}" + raw)


def test_curl_sends_a_large_body(host: Server, tmp_path: Path) -> None:
    """curl waits for 100 Continue before a body of this size, and gets it."""
    count = 300_000
    (tmp_path / "body").write_text(json.dumps(request([1.5] * count, [count])))
    status, body = curl(host, INFER, "-d", f"@{tmp_path / 'body'}")
    assert (200, [1.5] * count) == (status, json.loads(body)["outputs"][0]["data"])


def test_curl_asks_for_health_and_metadata(host: Server) -> None:
    """Health and metadata are answered to curl."""
    assert 200 == curl(host, "/v2/health/live")[0]
    assert 200 == curl(host, "/v2/health/ready", "--head")[0]
    assert METADATA == json.loads(curl(host, "/v2/models/echo")[1])


def test_curl_gets_errors(host: Server) -> None:
    """An error is one readable line."""
    status, body = curl(host, INFER, "-d", "rubbish")
    assert (400, ["error"]) == (status, list(json.loads(body)))
    status, body = curl(host, "/v2/models/failed/ready")
    assert (503, {"error": FAILED}) == (status, json.loads(body))


# -- KServe's clients ---------------------------------------------------------


@pytest.fixture(scope="module")
def kserve(host: Server) -> Any:
    """What KServe's REST and gRPC clients received."""
    program = str(SUPPORT / "client_kserve.py")
    done = run(sys.executable, program, host.url, host.grpc_address)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("protocol", "form"),
    [("rest", "json"), ("rest", "binary"), ("grpc", "typed"), ("grpc", "raw")],
)
@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [1, 2], [1.5, -2.0]),
        ("INT64", [2], [-(2**63), 2**63 - 1]),
        ("BYTES", [3], ["text", "ü", ""]),
    ],
    ids=["fp32", "int64", "bytes"],
)
def test_kserve_clients_infer(
    kserve: Any, protocol: str, form: str, datatype: str, shape: list[int], data: Any
) -> None:
    """Every form in which KServe's clients send a tensor comes back the same."""
    expected = {
        "id": "7",
        "model": "echo",
        "name": "x",
        "shape": shape,
        "datatype": datatype,
        "data": data,
    }
    assert expected == kserve[protocol]["answers"][f"{datatype} {form}"]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_kserve_clients_ask_for_health(kserve: Any, protocol: str) -> None:
    """The clients see the health of server and models; a failed model is not ready."""
    seen = kserve[protocol]
    assert [True] * 3 == [seen[key] for key in ("live", "ready", "model ready")]
    assert seen["failed model ready"] is False


def test_kserve_clients_get_errors(kserve: Any) -> None:
    """The clients' own exceptions carry the status and the text."""
    for key, status, code, text in (
        ("wrong", 400, "INVALID_ARGUMENT", WRONG),
        ("unknown", 404, "NOT_FOUND", UNKNOWN),
    ):
        assert status == kserve["rest"][key][0]
        assert text in kserve["rest"][key][1]
        assert [code, text] == kserve["grpc"][key]


# -- Triton's clients ---------------------------------------------------------


@pytest.fixture(scope="module")
def triton(host: Server) -> Any:
    """What Triton's HTTP and gRPC clients received."""
    if importlib.util.find_spec("tritonclient") is None:
        pytest.skip("tritonclient is not installed")
    program = str(SUPPORT / "client_triton.py")
    address = host.url.removeprefix("http://")
    done = run(sys.executable, program, address, host.grpc_address)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TRITON = {
    "BOOL": ([2], [True, False]),
    "UINT8": ([2, 1], [0, 255]),
    "INT64": ([2], [-(2**63), 2**63 - 1]),
    "FP16": ([2], [0.5, 65504.0]),
    "FP32": ([1, 2], [1.5, -2.0]),
    "FP64": ([2], [0.1, 1e300]),
    "BYTES": ([3, 1], ["text", "ü", ""]),
}


@pytest.mark.parametrize(
    ("datatype", "form", "wanted"),
    [
        (datatype, form, wanted)
        for datatype in TRITON
        for form in ("json", "binary")
        for wanted in ("json", "binary")
        # the client itself has no FP16 in JSON
        if datatype != "FP16" or (form, wanted) == ("binary", "binary")
    ],
)
def test_triton_http_client_infers(
    triton: Any, datatype: str, form: str, wanted: str
) -> None:
    """Every datatype goes as JSON or binary and comes back as either."""
    expected = ["7", "echo", *TRITON[datatype]]
    assert expected == triton["http"]["answers"][f"{datatype} {form} {wanted}"]


@pytest.mark.parametrize("datatype", TRITON)
def test_triton_grpc_client_infers(triton: Any, datatype: str) -> None:
    """Every datatype goes there and back as raw contents."""
    expected = ["7", "echo", *TRITON[datatype]]
    assert expected == triton["grpc"]["answers"][datatype]


def test_triton_clients_send_bytes_outside_utf_8(triton: Any) -> None:
    """BYTES hold any bytes; JSON cannot carry them, and the error says what can."""
    for protocol in ("http", "grpc"):
        expected = ["7", "echo", [2], ["\\xff\x00", ""]]
        assert expected == triton[protocol]["answers"]["not text"]
    text = (
        "output 'x' holds bytes that are not UTF-8, which JSON cannot carry; "
        "ask for it with the parameter binary_data"
    )
    assert ["500", text] == triton["http"]["not json"]


def test_triton_http_client_mixes_json_and_binary(triton: Any) -> None:
    """Inputs and outputs of both forms in one request are told apart by name."""
    expected = {"a": [0.0, 0.0], "b": [1.0, 1.0], "c": [2.0, 2.0]}
    assert expected == triton["http"]["mixed"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_triton_clients_ask_for_health_and_metadata(triton: Any, protocol: str) -> None:
    """Both clients read the same health and metadata of the server and its models."""
    seen = triton[protocol]
    keys = ("live", "ready", "model ready", "version ready")
    assert [True] * 4 == [seen[key] for key in keys]
    assert seen["failed model ready"] is False
    assert ("oip-host", version("oip-host")) == (
        seen["server"]["name"],
        seen["server"]["version"],
    )
    assert "binary_tensor_data" in seen["server"]["extensions"]
    model = dict(seen["model"])
    for key in ("inputs", "outputs"):  # JSON of protobuf has an int64 as text
        model[key] = [{**t, "shape": list(map(int, t["shape"]))} for t in model[key]]
    assert METADATA == model


@pytest.mark.parametrize(
    ("key", "status", "code", "text"),
    [
        ("unknown", "404", "NOT_FOUND", UNKNOWN),
        ("unknown metadata", "404", "NOT_FOUND", UNKNOWN),
        ("version", "404", "NOT_FOUND", "model 'echo' has no version '7', only 1"),
        ("failed", "503", "UNAVAILABLE", FAILED),
        ("late", "504", "DEADLINE_EXCEEDED", LATE),
    ],
    ids=["model", "metadata", "version", "failed", "late"],
)
def test_triton_clients_get_errors(
    triton: Any, key: str, status: str, code: str, text: str
) -> None:
    """The clients' own exceptions carry the status and the text."""
    assert [status, text] == triton["http"][key]
    assert [f"StatusCode.{code}", text] == triton["grpc"][key]


# -- Triton's asyncio clients, and compression --------------------------------


@pytest.fixture(scope="module")
def triton_aio(host: Server) -> Any:
    """What Triton's asyncio clients received, and all four clients with compression."""
    if importlib.util.find_spec("tritonclient") is None:
        pytest.skip("tritonclient is not installed")
    program = str(SUPPORT / "client_triton_aio.py")
    address = host.url.removeprefix("http://")
    done = run(sys.executable, program, address, host.grpc_address)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("protocol", "form"), [("http", "binary"), ("http", "json"), ("grpc", "binary")]
)
@pytest.mark.parametrize("datatype", [*TRITON, "not text"])
def test_triton_asyncio_clients_infer(
    triton_aio: Any, protocol: str, form: str, datatype: str
) -> None:
    """Every datatype goes there and back, as with the blocking clients."""
    answers = triton_aio[protocol]["answers"]
    if form == "json" and datatype in ("FP16", "not text"):  # not in the client's JSON
        assert f"{datatype} json" not in answers
        return
    expected = {**TRITON, "not text": ([2], ["\\xff\x00", ""])}[datatype]
    assert ["7", "echo", *expected] == answers[f"{datatype} {form}"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_triton_asyncio_clients_get_the_same_answers(
    triton: Any, triton_aio: Any, protocol: str
) -> None:
    """Health, metadata and errors are the same, in the words of either client."""
    keys = set(triton[protocol]) - {"answers", "mixed", "not json"}
    assert {key: triton[protocol][key] for key in keys} == {
        key: triton_aio[protocol][key] for key in keys
    }
    assert {"live", "server", "model", "unknown", "late"} < keys


@pytest.mark.parametrize(
    ("client", "ways"), [("http", 18), ("http aio", 2), ("grpc", 2), ("grpc aio", 2)]
)
def test_triton_clients_compress(triton_aio: Any, client: str, ways: int) -> None:
    """gzip and deflate, of requests and of answers, binary and JSON, lose nothing."""
    results = triton_aio["compressed"][client]
    assert ways == len(results)
    assert {True} == set(results.values()), results


@pytest.mark.parametrize("codec", ["gzip", "deflate"])
def test_answer_is_compressed_on_request(host: Server, codec: str) -> None:
    """The header says so, and the body is smaller; httpx reads it."""
    body = request([0.0] * 4000, [4000])
    answer = host.post(INFER, json=body, headers={"Accept-Encoding": codec})
    assert codec == answer.headers["content-encoding"]
    assert int(answer.headers["content-length"]) < 1000 < len(answer.content)
    assert answered([0.0] * 4000, [4000], "FP32") == answer.json()
    without = host.post(INFER, json=body, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in without.headers


# -- the clients of the protocol's own working group --------------------------


@pytest.fixture(scope="module")
def open_openapi(host: Server) -> Any:
    """What `open-inference-openapi` received."""
    if importlib.util.find_spec("open_inference.openapi") is None:
        pytest.skip("open-inference-openapi is not installed")
    done = run(sys.executable, str(SUPPORT / "client_open_openapi.py"), host.url)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [1, 2], [1.5, -2.0]),
        ("FP64", [2], [0.1, 1e300]),
        ("BYTES", [3], ["text", "ü", ""]),
    ],
)
def test_open_inference_openapi_infers(
    open_openapi: Any, datatype: str, shape: list[int], data: list[Any]
) -> None:
    """The client's models accept the answers unchanged."""
    expected = {**answered(data, shape, datatype), "id": "7"}
    assert expected == open_openapi["answers"][datatype]


def test_open_inference_openapi_sends_parameters(
    open_openapi: Any,
) -> None:
    """Parameters and requested outputs work with it too."""
    one = answered([1.0], [1], "FP32")
    assert one == open_openapi["selected"] == open_openapi["async"]
    assert {**one, "parameters": {"a": 1, "b": "c"}} == open_openapi["parameters"]


def test_open_inference_openapi_asks_for_health_and_metadata(open_openapi: Any) -> None:
    """The client raises where one is not ready; both describe themselves."""
    assert METADATA == open_openapi["model"]
    server = open_openapi["server"]
    assert ("oip-host", version("oip-host")) == (server["name"], server["version"])
    assert "binary_tensor_data" in server["extensions"]


@pytest.mark.parametrize(
    ("key", "kind", "status", "text"),
    [
        ("unknown", "ApiError", 404, UNKNOWN),
        ("unknown metadata", "ApiError", 404, UNKNOWN),
        ("version", "ApiError", 404, "model 'echo' has no version '7', only 1"),
        ("wrong", "BadRequestError", 400, WRONG),
        ("failed", "ApiError", 503, FAILED),
        ("failed ready", "ServiceUnavailableError", 503, FAILED),
    ],
)
def test_open_inference_openapi_gets_errors(
    open_openapi: Any, key: str, kind: str, status: int, text: str
) -> None:
    """Each error has the status, the text, and the class that the client has."""
    assert [kind, status, text] == open_openapi[key]


@pytest.fixture(scope="module")
def open_grpc(host: Server) -> Any:
    """What `open-inference-grpc` received."""
    if importlib.util.find_spec("open_inference.grpc") is None:
        pytest.skip("open-inference-grpc is not installed")
    program = str(SUPPORT / "client_open_grpc.py")
    done = run(sys.executable, program, host.grpc_address)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("BOOL", [2], [True, False]),
        ("INT8", [2], [-128, 127]),
        ("INT64", [2], [-(2**63), 2**63 - 1]),
        ("UINT64", [1], [2**64 - 1]),
        ("FP32", [1, 2], [1.5, -2.0]),
        ("FP64", [2], [0.1, 1e300]),
        ("BYTES", [2], ["ü", ""]),
    ],
)
def test_open_inference_grpc_infers(
    open_grpc: Any, datatype: str, shape: list[int], data: list[Any]
) -> None:
    """A typed request has a typed answer, with the same elements."""
    expected = ["7", "echo", "x", datatype, shape, data]
    assert expected == open_grpc["answers"][datatype]


def test_open_inference_grpc_sends_raw_contents(open_grpc: Any) -> None:
    """Raw contents and parameters work with it too."""
    assert "0000c03f" == open_grpc["raw"]
    assert [1, "c"] == open_grpc["parameters"]


def test_open_inference_grpc_asks_for_health_and_metadata(open_grpc: Any) -> None:
    """The client reads the health and the metadata of the server and its models."""
    keys = ("live", "ready", "model ready", "version ready")
    assert [True] * 4 == [open_grpc[key] for key in keys]
    assert open_grpc["failed model ready"] is False
    server = open_grpc["server"]
    assert ("oip-host", version("oip-host")) == (server["name"], server["version"])
    model = dict(open_grpc["model"])
    for key in ("inputs", "outputs"):  # JSON of protobuf has an int64 as text
        model[key] = [{**t, "shape": list(map(int, t["shape"]))} for t in model[key]]
    assert METADATA == model


@pytest.mark.parametrize(
    ("key", "code", "text"),
    [
        ("unknown", "NOT_FOUND", UNKNOWN),
        ("unknown metadata", "NOT_FOUND", UNKNOWN),
        ("version", "NOT_FOUND", "model 'echo' has no version '7', only 1"),
        ("wrong", "INVALID_ARGUMENT", WRONG),
        ("failed", "UNAVAILABLE", FAILED),
    ],
)
def test_open_inference_grpc_gets_errors(
    open_grpc: Any, key: str, code: str, text: str
) -> None:
    """Its exceptions carry the code and the text."""
    assert [code, text] == open_grpc[key]
