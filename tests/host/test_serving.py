"""One host with several models on both protocols, as a user meets it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from oip_host.edge.grpc.messages import message
from support.process import Server, wait_for
from support.wire import (
    ONE,
    Reply,
    infer_both,
    infer_grpc,
    infer_rest,
    request,
    rpc,
    rpc_error,
    tensor,
)

Serve = Callable[..., Server]

MAX_BODY = 1 << 20
READY = "/v2/health/ready"


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    """A server with healthy models, which tests share and must not change."""
    models = [
        "echo=fakes:Echo",
        "lists=fakes:Lists",
        "raises=fakes:Raises",
        "async=fakes:Async",
        "together=fakes:Together",
        "made=fakes:make_echo",
        "configured=fakes:Configured",
        "undescribed=fakes:NoMetadata",
        "nan=fakes:NotANumber",
        *(f"many@{n}=fakes:Tells" for n in (2, 10, 1)),
    ]
    settings = ["path=/somewhere", "scale=2.5", 'labels=["a","b"]']
    with Server(
        f"--handlers={','.join(models)}",
        f"--max_body_bytes={MAX_BODY}",
        *(f"--models.configured.settings.{setting}" for setting in settings),
    ) as server:
        yield server.wait_until_ready()


BROKEN = {
    "false": ("fakes:LoadFalse", "model_load returned False"),
    "raising": ("fakes:LoadRaises", "RuntimeError: no weights here"),
    "init": (
        "fakes:InitRaises",
        "fakes:InitRaises could not be constructed: RuntimeError: cannot be made",
    ),
    "nothing": (
        "fakes:NoHandler",
        "NoHandler is not a handler: it has no infer, model_metadata, model_load",
    ),
    "lost": (
        "no_such_module:Handler",
        "no_such_module:Handler failed to import: ModuleNotFoundError: "
        "No module named 'no_such_module'",
    ),
    "absent": (
        "fakes:Absent",
        "fakes:Absent failed to import: AttributeError: "
        "module 'fakes' has no attribute 'Absent'",
    ),
}


def not_ready(name: str, reason: str, version: str = "1") -> str:
    return f"model '{name}' version '{version}' is not ready: {reason}"


@pytest.fixture(scope="module")
def broken() -> Iterator[Server]:
    """A server with one good model among many that do not load."""
    selection = [f"{name}={handler}" for name, (handler, _) in BROKEN.items()]
    selection += ["good=fakes:Echo", "ill=fakes:NotHealthy", "spare=fakes:LoadFalse?"]
    selection += ["two@1=fakes:Tells", "two@2=fakes:LoadFalse?"]
    with Server(f"--handlers={','.join(selection)}") as server:
        wait_for(
            lambda: "still loading" not in server.get(READY).text, "the end of loading"
        )
        yield server


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def gated(gates: Path) -> Iterator[Server]:
    """A server whose models hold their answers, with separate models for each test."""
    options = {
        "narrow.max_queue": 1,
        "wide.max_concurrency": 2,
        "wide.max_queue": 2,
        "hasty.timeout_s": 1,
        "single.max_queue": 3,
    }
    names = ("gated", "narrow", "wide", "hasty", "single", "patient")
    with Server(
        "--handlers=echo=fakes:Echo,blocking=fakes:GatedAsync,"
        + ",".join(f"{name}=fakes:Gated" for name in names),
        *(f"--models.{name}={value}" for name, value in options.items()),
        env={"GATE_DIR": str(gates)},
    ) as server:
        yield server.wait_until_ready()


class Gate:
    """A named request that its handler holds until the test opens the gate."""

    def __init__(self, gates: Path, name: str) -> None:
        self.request = request([name], [1], "BYTES")
        self._started = gates / f"{name}.started"
        self._open = gates / f"{name}.open"

    @property
    def started(self) -> bool:
        return self._started.exists()

    def wait_until_started(self) -> None:
        wait_for(lambda: self.started, f"start of {self._started.stem}")

    def open(self) -> None:
        self._open.touch()


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Reply]]]:
    """Send a request from a separate thread."""
    with ThreadPoolExecutor(16) as pool:
        yield pool.submit


def refused(held: list[Future[Reply]]) -> list[Reply]:
    """Return the replies that arrive while the handlers are held."""
    return [reply.result() for reply in held if reply.done()]


# -- answers ------------------------------------------------------------------


def test_two_models_answer_side_by_side(host: Server) -> None:
    """Each model answers with its own handler, under its own name."""
    for name, expected in {"echo": [1.0, 2.0], "lists": [2.0, 4.0]}.items():
        answer = infer_rest(host, name, request([1, 2], [1, 2]))
        assert answer.status == 200
        assert name == answer.document["model_name"]
        assert expected == answer.document["outputs"][0]["data"]


@pytest.mark.parametrize(
    ("data", "shape", "datatype"),
    [
        pytest.param([True, False], [2], "BOOL", id="bool"),
        pytest.param([-128, 127], [2, 1], "INT8", id="int8"),
        pytest.param([-(2**63), 2**63 - 1], [1, 2], "INT64", id="int64"),
        pytest.param([0, 255], [2], "UINT8", id="uint8"),
        pytest.param([0.5, -2.0], [2], "FP32", id="fp32"),
        pytest.param([0.1, 1e300], [2], "FP64", id="fp64"),
        pytest.param(["text", "", "ü"], [3], "BYTES", id="bytes"),
        pytest.param([], [0, 4], "FP32", id="empty"),
        pytest.param([1.5], [], "FP32", id="scalar"),
    ],
)
def test_both_protocols_give_the_same_answer(
    host: Server, data: list[Any], shape: list[int], datatype: str
) -> None:
    """REST and gRPC give the same answer to a request, element by element."""
    expected = {
        "model_name": "echo",
        "model_version": "1",
        "outputs": [tensor(data, shape, datatype)],
    }
    rest, grpc = infer_both(host, "echo", request(data, shape, datatype))
    assert (200, expected) == (rest.status, rest.document)
    assert ("OK", expected) == (grpc.status, grpc.document)


def test_input_accepts_integers_as_floats_and_nested_data(host: Server) -> None:
    """JSON data may be nested in the tensor's shape; the answer is flat."""
    answer = infer_rest(host, "lists", request([[1, 2], [3, 4]], [2, 2]))
    assert [2.0, 4.0, 6.0, 8.0] == answer.document["outputs"][0]["data"]


@pytest.mark.parametrize("given", [{}, {"id": "request-7"}], ids=["none", "given"])
def test_id_is_optional_and_returned(host: Server, given: dict[str, str]) -> None:
    """The answer has the request's id, or no id if the request has none."""
    for reply in infer_both(host, "echo", {**ONE, **given}):
        assert given.get("id") == reply.document.get("id")


def test_parameters_reach_the_handler_and_the_client(host: Server) -> None:
    """Parameters of requests, inputs and outputs may be of any plain type."""
    given = {"flag": True, "count": 3, "share": 0.25, "text": "ü"}
    asked: dict[str, Any] = request([1.0], [1], parameters=given)
    asked["inputs"][0]["parameters"] = {"content_type": "np", "scale": 0.5}
    asked["outputs"] = [{"name": "x", "parameters": {"note": "mine"}}]
    for reply in infer_both(host, "echo", asked):
        assert given == reply.document["parameters"]
        shown = reply.document["outputs"][0]["parameters"]
        assert {"content_type": "np", "scale": 0.5} == shown


@pytest.mark.parametrize("wanted", [["a"], ["b", "a"]], ids=["one", "reordered"])
def test_only_requested_outputs_return_in_order(
    host: Server, wanted: list[str]
) -> None:
    """A request that names outputs gets only those, in its order."""
    asked = {
        "inputs": [tensor([1.0], [1], name=name) for name in ("a", "b", "c")],
        "outputs": [{"name": name} for name in wanted],
    }
    for reply in infer_both(host, "echo", asked):
        assert wanted == [output["name"] for output in reply.document["outputs"]]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, "10"), ("1", "1"), ("2", "2"), ("10", "10")],
    ids=["newest", "first", "second", "tenth"],
)
def test_version_is_chosen_by_url_or_field(
    host: Server, asked: str | None, expected: str
) -> None:
    """Each version answers for itself; by default the highest number answers."""
    for reply in infer_both(host, "many", ONE, asked):
        assert expected == reply.document["model_version"]
        assert "many" == reply.document["parameters"]["name"]
        assert expected == reply.document["parameters"]["version"]


def test_async_handler_runs_on_its_own_loop(host: Server) -> None:
    """Coroutine functions run off the server's loop, in the model's lane."""
    for reply in infer_both(host, "async", ONE):
        assert "lane-async" == reply.document["parameters"]["thread"]


def test_async_handler_runs_requests_concurrently(
    host: Server, background: Callable[..., Future[Reply]]
) -> None:
    """Requests that wait in an async handler do not wait for each other."""
    asked = [background(infer_rest, host, "together", ONE) for _ in range(3)]
    assert [200] * 3 == [reply.result().status for reply in asked]


def test_factory_serves_as_an_entry_point(host: Server) -> None:
    """A function that returns a handler can be used in place of a class."""
    assert 200 == infer_rest(host, "made", ONE).status


def test_handler_gets_its_settings(host: Server) -> None:
    """Options under models.<name>.settings reach the handler with their types."""
    expected = {"path": "/somewhere", "scale": 2.5, "labels": "a,b", "version": "1"}
    for reply in infer_both(host, "configured", ONE):
        assert expected == reply.document["parameters"]


# -- health, metadata and the other routes ------------------------------------


def test_server_is_live_and_ready(host: Server) -> None:
    """Both protocols report liveness and readiness."""
    assert {"live": True} == host.get("/v2/health/live").json()
    assert {"ready": True} == host.get(READY).json()
    assert rpc(host, "ServerLive").live is True
    assert rpc(host, "ServerReady").ready is True


def test_server_metadata_are_the_same_on_both_protocols(host: Server) -> None:
    """The server's metadata has its name, its version and its extensions."""
    document = host.get("/v2").json()
    assert "oip-host" == document["name"]
    assert version("oip-host") == document["version"]
    assert "binary_tensor_data" in document["extensions"]
    answer = rpc(host, "ServerMetadata")
    assert document == {
        "name": answer.name,
        "version": answer.version,
        "extensions": list(answer.extensions),
    }


@pytest.mark.parametrize("asked", [None, "2"], ids=["newest", "named"])
def test_model_metadata_are_the_same_on_both_protocols(
    host: Server, asked: str | None
) -> None:
    """A model's metadata has its served name, all its versions and its tensors."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    expected = {
        "name": "many",
        "versions": ["1", "2", "10"],
        "platform": "test",
        "inputs": [tensor],
        "outputs": [tensor],
    }
    path = f"/versions/{asked}" if asked else ""
    assert expected == host.get(f"/v2/models/many{path}").json()
    wire = message("ModelMetadataRequest")(name="many", version=asked or "")
    answer = rpc(host, "ModelMetadata", wire)
    assert (expected["name"], expected["platform"]) == (answer.name, answer.platform)
    assert expected["versions"] == list(answer.versions)
    for found in (*answer.inputs, *answer.outputs):
        shown = {"name": found.name, "datatype": found.datatype}
        assert tensor == {**shown, "shape": list(found.shape)}


def test_model_without_metadata_still_serves(host: Server) -> None:
    """A handler whose model_metadata fails still infers; its metadata are an error."""
    text = "there is nothing to describe"
    answer = host.get("/v2/models/undescribed")
    assert (501, {"error": text}) == (answer.status_code, answer.json())
    wire = message("ModelMetadataRequest")(name="undescribed")
    assert ("UNIMPLEMENTED", text) == rpc_error(host, "ModelMetadata", wire)
    assert 200 == infer_rest(host, "undescribed", ONE).status


@pytest.mark.parametrize("path", ["", "/versions/2"], ids=["newest", "named"])
def test_model_is_ready(host: Server, path: str) -> None:
    """A model's readiness is available with and without its version."""
    answer = host.get(f"/v2/models/many{path}/ready")
    assert (200, {"name": "many", "ready": True}) == (answer.status_code, answer.json())
    wire = message("ModelReadyRequest")(name="many", version=path[-1:])
    assert rpc(host, "ModelReady", wire).ready is True


@pytest.mark.parametrize("path", ["/v2/models", "/v1/models"])
def test_models_are_listed_once_by_name(host: Server, path: str) -> None:
    """Both generations of the REST protocol list every model once."""
    names = "echo lists raises async together made configured undescribed nan many"
    assert names.split() == host.get(path).json()["models"]


def test_metrics_count_each_outcome(host: Server) -> None:
    """The metrics count a model's requests by protocol and outcome and show its state.

    They include KServe's own histogram of the model.
    """
    infer_both(host, "made", ONE)
    infer_both(host, "made", request([1.0], [2]))
    answer = host.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [
        sample
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.labels.get("model_name") == "made"
    ]
    counted = {
        (sample.labels["protocol"], sample.labels["outcome"])
        for sample in samples
        if sample.name == "oip_requests_total" and sample.value >= 1
    }
    outcomes = ("ok", "InvalidRequest")
    assert {(p, o) for p in ("rest", "grpc") for o in outcomes} <= counted
    values = {sample.name: sample.value for sample in samples}
    assert 1 == values["oip_model_ready"]
    assert values["oip_model_load_seconds"] > 0
    for name in ("oip_handler", "oip_queue", "request_predict"):
        assert values[f"{name}_seconds_count"] >= 2


def test_swagger_ui_is_off_by_default(host: Server) -> None:
    """Without enable_docs_url there is no Swagger UI."""
    answer = host.get("/docs")
    assert (404, ["error"]) == (answer.status_code, list(answer.json()))


def test_swagger_ui_can_be_enabled(serve: Serve) -> None:
    """With enable_docs_url there are the page and the OpenAPI document."""
    server = serve("--handlers=fakes:Echo", "--enable_docs_url=true")
    page = server.get("/docs")
    assert 200 == page.status_code
    assert "swagger" in page.text.lower()
    paths = server.get("/openapi.json").json()["paths"]
    assert "/v2/models/{model_name}/infer" in paths


# -- failures -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("POST", "/v2/models/nobody/infer", 404, id="unknown model"),
        pytest.param("GET", "/v2/models/nobody", 404, id="its metadata"),
        pytest.param("GET", "/v2/models/nobody/ready", 404, id="its readiness"),
        pytest.param("POST", "/v2/models/echo/versions/7/infer", 404, id="version"),
        pytest.param("GET", "/v2/models/echo/versions/7", 404, id="version metadata"),
        pytest.param("GET", "/v2/models/echo/versions", 404, id="no version"),
        pytest.param("GET", "/v2/models/echo/nothing", 404, id="unknown action"),
        pytest.param("GET", "/v2/models//infer", 404, id="no model"),
        pytest.param("GET", "/v2/nothing", 404, id="unknown v2 route"),
        pytest.param("GET", "/nothing", 404, id="unknown route"),
        pytest.param("GET", "/v1/nothing", 404, id="unknown v1 route"),
        pytest.param("GET", "/v1/models/nobody", 404, id="unknown v1 model"),
        pytest.param("POST", "/v1/models/nobody:predict", 404, id="v1 predict"),
        pytest.param("GET", "/v2/models/echo/infer", 405, id="get infer"),
        pytest.param("PUT", "/v2/models/echo/infer", 405, id="put infer"),
        pytest.param("POST", "/v2/models/echo", 405, id="post metadata"),
        pytest.param("DELETE", "/v2/health/live", 405, id="delete live"),
        pytest.param("POST", "/v1/models", 405, id="post v1 list"),
    ],
)
def test_unknown_route_is_an_error_document(
    host: Server, method: str, path: str, status: int
) -> None:
    """Every refusal is `{"error": …}` with the HTTP status that fits."""
    connection = http.client.HTTPConnection("127.0.0.1", host.http_port, timeout=30)
    try:
        connection.request(method, path, body=json.dumps(ONE))
        answer = connection.getresponse()
        document = json.loads(answer.read())
    finally:
        connection.close()
    assert status == answer.status
    assert ["error"] == list(document)
    assert document["error"]


@pytest.mark.parametrize(
    ("model", "version", "text"),
    [
        ("nobody", None, "model 'nobody' is not on this server"),
        ("nobody", "3", "model 'nobody' is not on this server"),
        ("many", "3", "model 'many' has no version '3', only 1, 2, 10"),
    ],
    ids=["model", "model and version", "version"],
)
def test_unknown_model_is_not_found(
    host: Server, model: str, version: str | None, text: str
) -> None:
    """An unknown model or version gives the same error on both protocols."""
    rest, grpc = infer_both(host, model, ONE, version)
    assert (404, text) == (rest.status, rest.error)
    assert ("NOT_FOUND", text) == (grpc.status, grpc.error)
    for method in ("ModelReady", "ModelMetadata"):
        wire = message(f"{method}Request")(name=model, version=version or "")
        assert ("NOT_FOUND", text) == rpc_error(host, method, wire)


def test_unknown_model_comes_before_an_invalid_tensor(host: Server) -> None:
    """A request with both mistakes gets the same answer on both protocols."""
    rest, grpc = infer_both(host, "nobody", request([1.0], [1], "FP33"))
    assert (404, "NOT_FOUND") == (rest.status, grpc.status)
    assert rest.error == grpc.error


X: dict[str, Any] = tensor([1.0], [1])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"", "the body is not valid JSON", id="empty"),
        pytest.param(b"rubbish", "the body is not valid JSON", id="rubbish"),
        pytest.param(b"\xff\xfe{}", "the body is not valid JSON", id="not utf-8"),
        pytest.param(b"[" * 100_000, "the body is not valid JSON", id="too deep"),
        pytest.param([], "the body is an array, expected an object", id="array"),
        pytest.param({}, "inputs: missing, expected an array", id="no inputs"),
        pytest.param({"inputs": None}, "inputs: missing", id="null inputs"),
        pytest.param({"inputs": {}}, "inputs: found an object", id="inputs object"),
        pytest.param({"inputs": []}, "inputs: found none", id="zero inputs"),
        pytest.param({"inputs": [1]}, "inputs[0]", id="input int"),
        pytest.param({"inputs": [{**X, "name": 1}]}, "inputs[0].name", id="name"),
        pytest.param({"inputs": [X, X]}, "inputs: duplicate name 'x'", id="twice"),
        pytest.param({"inputs": [{**X, "shape": 1}]}, "inputs[0].shape", id="shape"),
        pytest.param(
            {"inputs": [{**X, "shape": [1.5]}]}, "inputs[0].shape[0]", id="float shape"
        ),
        pytest.param(
            {"inputs": [{**X, "shape": [True]}]}, "inputs[0].shape[0]", id="bool shape"
        ),
        pytest.param(
            {"inputs": [{**X, "datatype": 3}]}, "inputs[0].datatype", id="datatype int"
        ),
        pytest.param(
            {"inputs": [{k: v for k, v in X.items() if k != "data"}]},
            "inputs[0].data: missing, expected an array",
            id="no data",
        ),
        pytest.param({"inputs": [{**X, "data": 1}]}, "inputs[0].data", id="data int"),
        pytest.param({"inputs": [{**X, "data": [None]}]}, "null", id="null"),
        pytest.param({"inputs": [{**X, "data": [{}]}]}, "an object", id="object"),
        pytest.param({"inputs": [{**X, "data": [True]}]}, "bool True", id="bool"),
        pytest.param({"inputs": [{**X, "data": ["1"]}]}, "str '1'", id="text"),
        pytest.param(
            {"inputs": [{**X, "data": [[1], [2, 3]], "shape": [2, 2]}]},
            "nested lists are not rectangular",
            id="ragged",
        ),
        pytest.param(
            {"inputs": [{**X, "data": [1, [2]], "shape": [2]}]},
            "nested lists are not rectangular",
            id="mixed",
        ),
        pytest.param(
            {"inputs": [{**X, "data": [[1, 2]], "shape": [2, 1]}]},
            "nested lists have the shape [1, 2], expected [2, 1]",
            id="nesting",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}',
            "the body is not valid JSON",
            id="nan",
        ),
        pytest.param({"inputs": [X], "id": 5}, "id: found the int 5", id="id int"),
        pytest.param({"inputs": [X], "parameters": []}, "parameters", id="parameters"),
        pytest.param({"inputs": [X], "outputs": {}}, "outputs", id="outputs object"),
        pytest.param({"inputs": [X], "outputs": [{}]}, "outputs[0].name", id="output"),
        pytest.param(
            {"inputs": [{**X, "parameters": {"binary_data_size": 4}}]},
            "both data and binary_data_size",
            id="both data",
        ),
    ],
)
def test_invalid_body_is_refused_with_its_place(
    host: Server, body: Any, text: str
) -> None:
    """An invalid request is a 400 that names the invalid place."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = host.post("/v2/models/echo/infer", content=content)
    assert 400 == answer.status_code
    assert ["error"] == list(answer.json())
    assert text in answer.json()["error"]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        pytest.param(
            request([1.0, 2.0], [3]),
            "input 'x': shape [3] needs 3 elements, found 2",
            id="shape mismatch",
        ),
        pytest.param(
            request([1.0], [-1]),
            "inputs[0].shape[0]: found the int -1, expected an integer of 0 or more",
            id="negative dimension",
        ),
        pytest.param(
            request([1.0], [1], "FP33"),
            "inputs[0].datatype: unknown datatype 'FP33', expected one of BOOL, UINT8, "
            "UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, "
            "FP64, BYTES",
            id="unknown datatype",
        ),
        pytest.param(
            request([1, 300], [2], "INT8"),
            "input 'x': element 1 is the int 300, expected INT8: -128 to 127",
            id="out of range",
        ),
        pytest.param(
            {**ONE, "outputs": [{"name": "z"}]},
            "model 'echo' has no output 'z', expected one of x",
            id="unknown output",
        ),
        pytest.param(
            {"inputs": []}, "inputs: found none, expected at least one", id="no inputs"
        ),
        pytest.param(
            request([], [0, 2**62]),
            "input 'x': shape [0, 4611686018427387904] has too many dimensions, "
            "or too large ones",
            id="shape beyond memory",
        ),
        pytest.param(
            request([1.0], [1] * 100),
            f"input 'x': shape {[1] * 100} has too many dimensions, or too large ones",
            id="too many dimensions",
        ),
    ],
)
def test_invalid_tensor_has_one_text_on_both_protocols(
    host: Server, asked: Any, text: str
) -> None:
    """An invalid request gets the same error text on each protocol."""
    rest, grpc = infer_both(host, "echo", asked)
    assert (400, text) == (rest.status, rest.error)
    assert ("INVALID_ARGUMENT", text) == (grpc.status, grpc.error)


def with_binary(size: Any, datatype: str = "FP32", **more: Any) -> bytes:
    """Return the JSON part of a request whose one input follows it in `size` bytes."""
    described = {**tensor(None, [1], datatype), **more}
    described["parameters"] = {"binary_data_size": size}
    del described["data"]
    return json.dumps({"inputs": [described]}).encode()


@pytest.mark.parametrize(
    ("head", "rest", "length", "text"),
    [
        pytest.param(
            with_binary(4), b"1234", "x", "found 'x', expected bytes", id="no number"
        ),
        pytest.param(
            with_binary(4), b"1234", "9999", "found 9999, expected 0 to", id="too long"
        ),
        pytest.param(
            with_binary(4), b"1234", None, "the body is not valid JSON", id="no header"
        ),
        pytest.param(
            with_binary(8),
            b"1234",
            "",
            "found 8, but only 4 bytes are left",
            id="short",
        ),
        pytest.param(
            with_binary(4),
            b"12345",
            "",
            "the body has 1 bytes after its last",
            id="more",
        ),
        pytest.param(
            with_binary(3), b"123", "", "3 bytes are no whole number of FP32", id="part"
        ),
        pytest.param(
            with_binary(8), b"12345678", "", "shape [1] needs 1 elements", id="count"
        ),
        pytest.param(
            with_binary(-4), b"", "", "binary_data_size is the int -4", id="negative"
        ),
        pytest.param(
            with_binary("4"), b"1234", "", "binary_data_size is the str '4'", id="text"
        ),
        pytest.param(
            with_binary(4, "BYTES"),
            b"\xff\xff\xff\xff",
            "",
            "BYTES element 0 reaches beyond the 4 bytes",
            id="bytes length",
        ),
    ],
)
def test_invalid_binary_sizes_are_refused(
    host: Server, head: bytes, rest: bytes, length: str | None, text: str
) -> None:
    """Sizes that do not add up are a 400 that names the number."""
    name = "Inference-Header-Content-Length"
    headers = {} if length is None else {name: length or str(len(head))}
    answer = host.post("/v2/models/echo/infer", content=head + rest, headers=headers)
    assert (400, ["error"]) == (answer.status_code, list(answer.json()))
    assert text in answer.json()["error"]


def grpc_request(*shapes: list[int], datatype: str = "FP32", **more: Any) -> Any:
    wire = message("ModelInferRequest")(model_name="echo", **more)
    for n, shape in enumerate(shapes):
        wire.inputs.add(name=f"x{n}", datatype=datatype, shape=shape)
    return wire


def filled(wire: Any, **contents: Any) -> Any:
    """Return the request with contents in its first input."""
    for name, values in contents.items():
        getattr(wire.inputs[0].contents, name).extend(values)
    return wire


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        pytest.param(
            grpc_request([1], [1], raw_input_contents=[bytes(4)]),
            "raw_input_contents: found 1, expected 2, one for each input",
            id="raw count",
        ),
        pytest.param(
            filled(grpc_request([1], raw_input_contents=[bytes(4)]), fp32_contents=[1]),
            "input 'x0': has both fp32_contents and raw_input_contents",
            id="both",
        ),
        pytest.param(
            filled(grpc_request([1]), int_contents=[1]),
            "input 'x0': has int_contents, expected fp32_contents for FP32",
            id="other contents",
        ),
        pytest.param(
            filled(grpc_request([1], datatype="FP16"), fp32_contents=[1]),
            "input 'x0': FP16 travels in raw_input_contents only",
            id="fp16",
        ),
        pytest.param(
            grpc_request([1], raw_input_contents=[bytes(3)]),
            "input 'x0': 3 bytes are no whole number of FP32 elements of 4 bytes",
            id="raw size",
        ),
        pytest.param(
            grpc_request([2], raw_input_contents=[bytes(4)]),
            "input 'x0': shape [2] needs 2 elements, found 1",
            id="raw shape",
        ),
        pytest.param(
            grpc_request([1]),
            "input 'x0': shape [1] needs 1 elements, found 0",
            id="nothing",
        ),
    ],
)
def test_invalid_grpc_message_is_refused_with_its_place(
    host: Server, wire: Any, text: str
) -> None:
    """Mistakes that only gRPC allows are INVALID_ARGUMENT, with their place."""
    assert ("INVALID_ARGUMENT", text) == rpc_error(host, "ModelInfer", wire)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_travel_raw(host: Server, datatype: str) -> None:
    """A raw request has a raw answer, byte by byte."""
    raw = b"\x00\x3c\x01\x00"
    wire = grpc_request([2, 1], datatype=datatype, raw_input_contents=[raw])
    answer = rpc(host, "ModelInfer", wire)
    assert [raw] == list(answer.raw_output_contents)
    assert (datatype, [2, 1]) == (
        answer.outputs[0].datatype,
        list(answer.outputs[0].shape),
    )


WORDS = "the handler's own words"
HIDDEN = "model 'raises' failed; the server's log has the reason"


@pytest.mark.parametrize(
    ("raised", "status", "code", "text"),
    [
        ("ValueError", 400, "INVALID_ARGUMENT", WORDS),
        ("TypeError", 400, "INVALID_ARGUMENT", WORDS),
        ("InvalidRequest", 400, "INVALID_ARGUMENT", WORDS),
        ("ModelNotFound", 404, "NOT_FOUND", WORDS),
        ("NotImplementedError", 501, "UNIMPLEMENTED", WORDS),
        ("NotSupported", 501, "UNIMPLEMENTED", WORDS),
        ("ModelNotReady", 503, "UNAVAILABLE", WORDS),
        ("Overloaded", 503, "RESOURCE_EXHAUSTED", WORDS),
        ("DeadlineExceeded", 504, "DEADLINE_EXCEEDED", WORDS),
        ("HandlerFault", 500, "INTERNAL", WORDS),
        ("OIPError", 500, "INTERNAL", WORDS),
        ("RuntimeError", 500, "INTERNAL", HIDDEN),
        ("KeyError", 500, "INTERNAL", HIDDEN),
        ("MemoryError", 500, "INTERNAL", HIDDEN),
        ("SystemExit", 500, "INTERNAL", HIDDEN),
        ("KeyboardInterrupt", 500, "INTERNAL", HIDDEN),
        ("GeneratorExit", 500, "INTERNAL", HIDDEN),
        ("StopIteration", 500, "INTERNAL", HIDDEN),
    ],
)
def test_exception_of_a_handler_sets_the_status(
    host: Server, raised: str, status: int, code: str, text: str
) -> None:
    """Client faults and OIP errors keep their text; other exceptions are hidden.

    After any exception the model and the server continue.
    """
    rest, grpc = infer_both(host, "raises", request([raised], [1], "BYTES"))
    assert (status, text) == (rest.status, rest.error)
    assert (code, text) == (grpc.status, grpc.error)
    if text == HIDDEN:
        assert WORDS in host.log
    assert 200 == infer_rest(host, "echo", ONE).status


def test_inconsistent_output_is_the_handlers_fault(host: Server) -> None:
    """An output whose data does not fit its shape is a 500 that says so."""
    text = (
        "model 'raises' returned an invalid response: "
        "output 'y': shape [3] needs 3 elements, found 2"
    )
    rest, grpc = infer_both(host, "raises", request(["wrong output"], [1], "BYTES"))
    assert (500, text) == (rest.status, rest.error)
    assert ("INTERNAL", text) == (grpc.status, grpc.error)


def test_json_answer_rejects_non_finite_values(
    host: Server,
) -> None:
    """NaN travels over gRPC and in binary form, and is an error in JSON."""
    assert 500 == infer_rest(host, "nan", ONE).status
    assert "JSON cannot carry" in infer_rest(host, "nan", ONE).error
    assert "OK" == infer_grpc(host, "nan", ONE).status
    binary = {**ONE, "parameters": {"binary_data_output": True}}
    answer = host.post("/v2/models/nan/infer", json=binary)
    assert 200 == answer.status_code
    assert b"\x00\x00\xc0\x7f" == answer.content[-4:]


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"rubbish", {}),
        (b"{}", {"Inference-Header-Content-Length": "-1"}),
        (b"x" * (MAX_BODY + 1), {}),
    ],
    ids=["rubbish", "header", "too large"],
)
def test_connection_continues_after_an_error(
    host: Server, content: bytes, headers: dict[str, str]
) -> None:
    """The next request on the same connection is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", host.http_port, timeout=30)
    path = "/v2/models/echo/infer"
    try:
        connection.request("POST", path, body=content, headers=headers)
        refused = connection.getresponse()
        assert ["error"] == list(json.loads(refused.read()))
        assert refused.status in (400, 413)
        first = connection.sock
        connection.request("POST", path, body=json.dumps(ONE))
        assert 200 == connection.getresponse().status
        assert first is connection.sock
    finally:
        connection.close()


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_body_over_the_limit_is_refused(host: Server, chunked: bool) -> None:
    """A body that is too large is a 413, whether its size is announced or not."""
    size = MAX_BODY + 1
    content: Any = iter([b" " * size]) if chunked else b" " * size
    answer = host.post("/v2/models/echo/infer", content=content)
    text = f"the body is larger than {MAX_BODY} bytes, which is max_body_bytes"
    assert (413, {"error": text}) == (answer.status_code, answer.json())


def test_body_of_exactly_the_limit_is_accepted(host: Server) -> None:
    """The limit itself is allowed."""
    content = json.dumps(ONE).encode().ljust(MAX_BODY)
    assert 200 == host.post("/v2/models/echo/infer", content=content).status_code


def test_v1_on_a_handler_with_one_input(host: Server) -> None:
    """V1 instances are the rows of the input, and the output's rows the predictions."""
    answer = host.post("/v1/models/echo:predict", json={"instances": [[1, 2], [3, 4]]})
    expected = {"predictions": [[1.0, 2.0], [3.0, 4.0]]}
    assert (200, expected) == (answer.status_code, answer.json())


# -- models that are not ready ------------------------------------------------


def test_loading_server_is_live_but_not_ready(serve: Serve, tmp_path: Path) -> None:
    """The server listens before its models have loaded, and names the loading ones."""
    gate = tmp_path / "gate"
    server = serve(
        "--handlers=slow=fakes:SlowLoad,echo=fakes:Echo",
        env={"SLOW_LOAD_GATE": str(gate)},
    )
    text = not_ready("slow", "it is still loading")
    assert 200 == server.get("/v2/health/live").status_code
    wait_for(lambda: infer_rest(server, "echo", ONE).status == 200, "echo's load")
    answer = server.get(READY)
    assert (503, {"ready": False, "error": text}) == (answer.status_code, answer.json())
    assert rpc(server, "ServerReady").ready is False
    rest, grpc = infer_both(server, "slow", ONE)
    assert (503, text) == (rest.status, rest.error)
    assert ("UNAVAILABLE", text) == (grpc.status, grpc.error)
    gate.touch()
    server.wait_until_ready()
    assert [200, "OK"] == [reply.status for reply in infer_both(server, "slow", ONE)]


@pytest.mark.parametrize("name", BROKEN)
def test_failed_model_gives_its_reason_in_every_answer(
    broken: Server, name: str
) -> None:
    """A model that does not load stays unavailable, with one reason everywhere."""
    text = not_ready(name, BROKEN[name][1])
    rest, grpc = infer_both(broken, name, ONE)
    assert (503, text) == (rest.status, rest.error)
    assert ("UNAVAILABLE", text) == (grpc.status, grpc.error)
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/ready"):
        answer = broken.get(path)
        assert (503, {"error": text}) == (answer.status_code, answer.json())
    wire = message("ModelMetadataRequest")(name=name)
    assert ("UNAVAILABLE", text) == rpc_error(broken, "ModelMetadata", wire)
    ready = message("ModelReadyRequest")(name=name)
    assert rpc(broken, "ModelReady", ready).ready is False
    for answer in (
        broken.get(f"/v1/models/{name}"),
        broken.post(f"/v1/models/{name}:predict", json={"instances": [1]}),
    ):
        assert (503, {"error": text}) == (answer.status_code, answer.json())
    assert text in broken.get(READY).json()["error"]


def test_unready_model_refuses_an_invalid_request(broken: Server) -> None:
    """A model that is not ready says so to an invalid request too."""
    rest, grpc = infer_both(broken, "false", request([1.0], [1], "FP33"))
    assert (503, "UNAVAILABLE") == (rest.status, grpc.status)
    assert rest.error == grpc.error


def test_failed_model_does_not_stop_the_others(broken: Server) -> None:
    """The models that have loaded answer."""
    assert [200, "OK"] == [reply.status for reply in infer_both(broken, "good", ONE)]


def test_failures_are_logged_with_their_traceback(broken: Server) -> None:
    """The log shows where a handler raised."""
    log = broken.log
    assert "in model_load" in log
    assert "in __init__" in log
    assert "ModuleNotFoundError: No module named 'no_such_module'" in log
    assert "RuntimeError: no weights here" in log
    assert "RuntimeError: cannot be made" in log
    assert "Traceback (most recent call last)" in log


def test_handler_can_say_that_it_is_not_ready(broken: Server) -> None:
    """model_ready of a loaded handler counts, for the model and for the server."""
    text = not_ready("ill", "its handler says so")
    answer = broken.get("/v2/models/ill/ready")
    assert (503, {"error": text}) == (answer.status_code, answer.json())
    wire = message("ModelReadyRequest")(name="ill")
    assert rpc(broken, "ModelReady", wire).ready is False
    assert text in broken.get(READY).json()["error"]


def test_newest_ready_version_answers(broken: Server) -> None:
    """A newer version that did not load does not replace the older one."""
    for reply in infer_both(broken, "two", ONE):
        assert "1" == reply.document["model_version"]
    rest, grpc = infer_both(broken, "two", ONE, "2")
    text = not_ready("two", "model_load returned False", "2")
    assert (503, text) == (rest.status, rest.error)
    assert ("UNAVAILABLE", text) == (grpc.status, grpc.error)


def test_readiness_names_every_required_model(broken: Server) -> None:
    """The 503 lists the required models that are not ready, without optional ones."""
    expected = [not_ready(name, reason) for name, (_, reason) in BROKEN.items()]
    expected.append(not_ready("ill", "its handler says so"))
    answer = broken.get(READY)
    assert 503 == answer.status_code
    assert expected == answer.json()["error"].split("; ")


def test_optional_model_does_not_count_for_readiness(serve: Serve) -> None:
    """A server is ready without its optional models."""
    server = serve("--handlers=good=fakes:Echo,spare=fakes:LoadFalse?")
    server.wait_until_ready()
    assert rpc(server, "ServerReady").ready is True
    wait_for(
        lambda: "returned False" in infer_rest(server, "spare", ONE).error,
        "the end of spare's load",
    )
    assert 200 == server.get(READY).status_code


# -- where handlers run, and their concurrency --------------------------------


@pytest.mark.parametrize("model", ["gated", "blocking"])
def test_busy_handler_does_not_block_the_server(
    gated: Server, gates: Path, background: Callable[..., Future[Reply]], model: str
) -> None:
    """While a handler runs, health, metrics and another model answer.

    This also holds for an `async def` handler that blocks its own lane.
    """
    gate = Gate(gates, f"busy-{model}")
    held = background(infer_rest, gated, model, gate.request)
    gate.wait_until_started()
    assert 200 == gated.get("/v2/health/live").status_code
    assert 200 == gated.get(READY).status_code
    assert 200 == gated.get(f"/v2/models/{model}").status_code
    assert 200 == gated.get("/metrics").status_code
    assert [200, "OK"] == [reply.status for reply in infer_both(gated, "echo", ONE)]
    assert rpc(gated, "ServerLive").live is True
    assert not held.done()
    gate.open()
    assert 200 == held.result().status


def test_handler_is_never_called_concurrently_by_default(
    gated: Server, gates: Path, background: Callable[..., Future[Reply]]
) -> None:
    """By default the requests of a model wait for each other, on both protocols."""
    all_gates = [Gate(gates, f"single-{n}") for n in range(6)]
    held = [
        background(infer_rest if n % 2 else infer_grpc, gated, "single", gate.request)
        for n, gate in enumerate(all_gates)
    ]
    # max_queue is 3: when two of six are refused, the other four have been accepted
    wait_for(lambda: len(refused(held)) == 2, "two refusals")
    wait_for(lambda: any(gate.started for gate in all_gates), "a first call")
    assert 1 == sum(gate.started for gate in all_gates)
    for gate in all_gates:
        gate.open()
    replies = [reply.result() for reply in held]
    most = [
        r.document["parameters"]["most"] for r in replies if "outputs" in r.document
    ]
    assert [1] * 4 == most


def test_max_concurrency_lets_calls_run_at_once(
    gated: Server, gates: Path, background: Callable[..., Future[Reply]]
) -> None:
    """As many calls run side by side as the option says, and no more."""
    all_gates = [Gate(gates, f"wide-{n}") for n in range(6)]
    held = [background(infer_rest, gated, "wide", gate.request) for gate in all_gates]
    # max_queue is 2: when two of six are refused, the other four have been accepted
    wait_for(lambda: len(refused(held)) == 2, "two refusals")
    wait_for(lambda: sum(gate.started for gate in all_gates) == 2, "two calls at once")
    for gate in all_gates:
        gate.open()
    replies = [reply.result() for reply in held]
    most = [r.document["parameters"]["most"] for r in replies if r.status == 200]
    assert (4, 2) == (len(most), max(most))


def test_full_queue_refuses_at_once(
    gated: Server, gates: Path, background: Callable[..., Future[Reply]]
) -> None:
    """Beyond max_queue: 503 with Retry-After, and RESOURCE_EXHAUSTED.

    The accepted requests are answered.
    """
    gate = Gate(gates, "narrow")
    held = [background(infer_rest, gated, "narrow", gate.request) for _ in range(4)]
    wait_for(lambda: len(refused(held)) == 2, "two refusals")
    text = "model 'narrow' has 1 requests waiting, which is its max_queue"
    rest, grpc = infer_both(gated, "narrow", gate.request)
    assert (503, text) == (rest.status, rest.error)
    assert int(rest.headers["retry-after"]) > 0
    assert ("RESOURCE_EXHAUSTED", text) == (grpc.status, grpc.error)
    assert [503, 503] == [reply.status for reply in refused(held)]
    gate.open()
    assert [200, 200, 503, 503] == sorted(int(r.result().status) for r in held)
    assert 200 == infer_rest(gated, "narrow", gate.request).status


def test_late_answer_is_deadline_exceeded(gated: Server, gates: Path) -> None:
    """After timeout_s a request fails, and one that has not started never does."""
    running, waiting, after = (Gate(gates, f"hasty-{n}") for n in range(3))
    text = "model 'hasty' did not answer within 1 s"
    rest = infer_rest(gated, "hasty", running.request)
    grpc = infer_grpc(gated, "hasty", waiting.request)
    assert (504, text) == (rest.status, rest.error)
    assert ("DEADLINE_EXCEEDED", text) == (grpc.status, grpc.error)
    running.open()
    after.open()
    wait_for(
        lambda: infer_rest(gated, "hasty", after.request).status == 200,
        "the end of the late call",
    )
    assert running.started
    assert not waiting.started


def test_clients_deadline_counts_too(
    gated: Server, gates: Path, background: Callable[..., Future[Reply]]
) -> None:
    """A gRPC call that its client gave up leaves the queue without being run."""
    first, second, last = (Gate(gates, f"patient-{n}") for n in range(3))
    running = background(infer_grpc, gated, "patient", first.request, None, 2)
    first.wait_until_started()
    waiting = infer_grpc(gated, "patient", second.request, timeout_s=0.5)
    assert ["DEADLINE_EXCEEDED"] * 2 == [running.result().status, waiting.status]
    first.open()
    last.open()
    assert 200 == infer_rest(gated, "patient", last.request).status
    assert not second.started
