"""KServe both ways: its server with our models, and our server with its models.

Also aiSSEMBLE's packages, whose import paths and handlers work unchanged.
"""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import oip_host
from oip_handler import handler, list_checks, tensors
from oip_handler import messages as types
from oip_host.edge.grpc.messages import message
from support.process import SUPPORT, Server, wait_for
from support.wire import (
    ONE,
    Reply,
    infer_both,
    infer_grpc,
    infer_rest,
    request,
    rpc,
)

SHARED = "aissemble_open_inference_protocol_shared"
KSERVE = "aissemble_open_inference_protocol_kserve"


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Run a call in a separate thread."""
    with ThreadPoolExecutor(2) as pool:
        yield pool.submit


# -- our model in a stock server ----------------------------------------------


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def stock(gates: Path) -> Iterator[Server]:
    """A stock `kserve.ModelServer` whose models are `AissembleOIPKServe`."""
    with Server(
        "echo=Echo",
        "lists=Lists",
        "async=Async",
        "gated=Gated",
        "raises=Raises",
        "idle=LoadRaises?",
        program=(sys.executable, str(SUPPORT / "stock_kserve.py")),
        env={"GATE_DIR": str(gates)},
    ) as server:

        def ready() -> bool:
            try:
                return server.get("/v2/health/ready").status_code == 200
            except httpx.ConnectError:
                return False

        wait_for(ready, "a stock server")
        yield server


@pytest.mark.parametrize(
    ("data", "datatype"),
    [([1.5, 2.0], "FP32"), ([1, -1], "INT64"), (["ü", ""], "BYTES"), ([True], "BOOL")],
    ids=["fp32", "int64", "bytes", "bool"],
)
@pytest.mark.parametrize("model", ["echo", "async"])
def test_stock_server_serves_our_model(
    stock: Server, model: str, data: list[Any], datatype: str
) -> None:
    """KServe's own REST and gRPC endpoints answer with the handler's tensors."""
    shape = [len(data)]
    rest, grpc = infer_both(stock, model, request(data, shape, datatype, id="7"))
    assert (200, "OK") == (rest.status, grpc.status)
    for reply in (rest, grpc):
        assert (model, "7") == (reply.document["model_name"], reply.document["id"])
        output = reply.document["outputs"][0]
        assert ("x", shape, datatype) == tuple(
            output[key] for key in ("name", "shape", "datatype")
        )
        assert data == output["data"]


def test_stock_server_answers_without_an_id(stock: Server) -> None:
    """A request without an id is valid there too."""
    assert [200, "OK"] == [reply.status for reply in infer_both(stock, "echo", ONE)]


def test_stock_server_passes_raw_grpc_tensors(stock: Server) -> None:
    """Tensors that KServe keeps as raw bytes reach the handler as elements."""
    wire = message("ModelInferRequest")(model_name="lists")
    wire.inputs.add(name="x", datatype="FP32", shape=[1])
    wire.raw_input_contents.append(b"\x00\x00\xc0\x3f")
    answer = rpc(stock, "ModelInfer", wire)
    assert [3.0] == list(answer.outputs[0].contents.fp32_contents)


def test_stock_server_has_the_handlers_metadata(stock: Server) -> None:
    """KServe describes the model with the handler's metadata."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    document = stock.get("/v2/models/echo").json()
    assert ("echo", [tensor], [tensor]) == (
        document["name"],
        document["inputs"],
        document["outputs"],
    )
    answer = rpc(stock, "ModelMetadata", message("ModelMetadataRequest")(name="echo"))
    assert ("echo", [-1, 2]) == (answer.name, list(answer.inputs[0].shape))
    assert 200 == stock.get("/v2/models/echo/ready").status_code


def test_handler_runs_off_the_stock_servers_loop(
    stock: Server, gates: Path, background: Callable[..., Future[Reply]]
) -> None:
    """While a plain handler runs, KServe's health and another model answer."""
    held = background(infer_rest, stock, "gated", request(["one"], [1], "BYTES"))
    wait_for((gates / "one.started").exists, "the call")
    assert 200 == stock.get("/v2/health/live").status_code
    assert 200 == stock.get("/v2/models/gated/ready").status_code
    assert rpc(stock, "ServerLive").live is True
    assert [200, "OK"] == [reply.status for reply in infer_both(stock, "echo", ONE)]
    assert not held.done()
    (gates / "one.open").touch()
    assert 200 == held.result().status


def test_stock_server_loads_no_model_inline(stock: Server) -> None:
    """A model that is not loaded is reported as such, and no request loads it.

    Its handler would raise if it were loaded; `load()` on KServe's event loop does
    nothing.
    """
    rest, grpc = infer_both(stock, "idle", ONE)
    assert (503, "Model with name idle is not ready.") == (rest.status, rest.error)
    text = "model 'idle' version '1' is not ready: it is not loaded"
    assert ("UNAVAILABLE", text) == (grpc.status, grpc.error)
    assert "no weights here" not in stock.log


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        ("ValueError", 400, "INVALID_ARGUMENT"),
        ("InvalidRequest", 400, "INVALID_ARGUMENT"),
        ("NotImplementedError", 501, "UNIMPLEMENTED"),
        ("ModelNotReady", 503, "UNAVAILABLE"),
    ],
)
def test_stock_server_keeps_our_errors(
    stock: Server, raised: str, status: int, code: str
) -> None:
    """Errors keep their status and text where KServe has a status for them."""
    rest, grpc = infer_both(stock, "raises", request([raised], [1], "BYTES"))
    text = "the handler's own words"
    assert (status, code) == (rest.status, grpc.status)
    assert rest.error.endswith(text)
    assert text == grpc.error


def test_stock_server_hides_a_handlers_exception(stock: Server) -> None:
    """The text of a handler's fault is only in the log there too."""
    rest, grpc = infer_both(stock, "raises", request(["RuntimeError"], [1], "BYTES"))
    assert (500, "INTERNAL") == (rest.status, grpc.status)
    assert "own words" not in rest.error + grpc.error
    assert "RuntimeError: the handler's own words" in stock.log


# -- their model in our server ------------------------------------------------


@pytest.fixture(scope="module")
def host(gates: Path) -> Iterator[Server]:
    """A server with models of KServe beside a handler."""
    with Server(
        "--handlers=double=fakes:KServeDouble,gated=fakes:KServeGated,"
        "echo=fakes:Echo,failing=fakes:KServeLoads?",
        env={"GATE_DIR": str(gates)},
    ) as server:
        yield server.wait_until_ready()


def predict(server: Server, model: str, instances: list[Any]) -> httpx.Response:
    """Send a V1 request."""
    return server.post(f"/v1/models/{model}:predict", json={"instances": instances})


def test_kserve_model_keeps_its_v1_endpoint(host: Server) -> None:
    """A kserve.Model as an entry point answers V1 as under KServe."""
    answer = predict(host, "double", [1, 2.5])
    assert (200, {"predictions": [2, 5.0]}) == (answer.status_code, answer.json())
    ready = host.get("/v1/models/double")
    assert (200, {"name": "double", "ready": True}) == (ready.status_code, ready.json())


def test_kserve_model_answers_v2_on_both_protocols(host: Server) -> None:
    """Its `predict` gets an InferRequest, and its InferResponse is the answer."""
    asked = request([1.0, 2.5], [1, 2], id="7")
    expected = {
        "model_name": "double",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [2.0, 5.0]}
        ],
    }
    rest, grpc = infer_both(host, "double", asked)
    assert (200, expected) == (rest.status, rest.document)
    assert ("OK", expected) == (grpc.status, grpc.document)


def test_kserve_model_gets_raw_grpc_tensors(host: Server) -> None:
    """Raw contents reach it as elements, and a raw request gets a raw answer."""
    wire = message("ModelInferRequest")(model_name="double")
    wire.inputs.add(name="x", datatype="FP32", shape=[1])
    wire.raw_input_contents.append(b"\x00\x00\xc0\x3f")
    answer = rpc(host, "ModelInfer", wire)
    assert [b"\x00\x00\x40\x40"] == list(answer.raw_output_contents)


def test_handler_is_served_beside_a_kserve_model(host: Server) -> None:
    """One server has both kinds and lists them together."""
    assert [200, "OK"] == [reply.status for reply in infer_both(host, "echo", ONE)]
    names = ["double", "gated", "echo", "failing"]
    assert names == host.get("/v2/models").json()["models"]


def test_plain_predict_does_not_block_the_server(
    host: Server, gates: Path, background: Callable[..., Future[httpx.Response]]
) -> None:
    """While a kserve.Model's plain `predict` runs, everything else answers."""
    held = background(predict, host, "gated", ["v1"])
    wait_for((gates / "v1.started").exists, "the call")
    assert 200 == host.get("/v2/health/ready").status_code
    assert 200 == host.get("/v2/models/gated").status_code
    assert 200 == predict(host, "double", [1]).status_code
    assert [200, "OK"] == [reply.status for reply in infer_both(host, "echo", ONE)]
    assert not held.done()
    (gates / "v1.open").touch()
    assert {"predictions": ["v1"]} == held.result().json()


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("double:predict", b"rubbish", 400),
        ("double:predict", b'{"instances": 1}', 400),
        ("double:predict", b"{}", 500),
        ("double:explain", b'{"instances": [1]}', 501),
        ("echo:predict", b'{"instances": ["text"]}', 400),
        ("echo:predict", b'{"inputs": [1]}', 400),
        ("echo:explain", b'{"instances": [1]}', 501),
        ("failing:predict", b'{"instances": [1]}', 503),
        ("nobody:predict", b'{"instances": [1]}', 404),
    ],
    ids=[
        "no json", "no list", "predict raises", "no explain", "handler: wrong type",
        "handler: no instances", "handler explain", "failed", "unknown",
    ],
)  # fmt: skip
def test_v1_failure_is_an_error_document(
    host: Server, path: str, content: bytes, status: int
) -> None:
    """V1 answers `{"error": …}` with the right status, and no stack trace."""
    answer = host.post(f"/v1/models/{path}", content=content)
    assert (status, ["error"]) == (answer.status_code, list(answer.json()))
    assert answer.json()["error"]
    assert "Traceback" not in answer.text


def test_kserve_model_that_fails_to_load_gives_its_reason(host: Server) -> None:
    """Its exception is the reason, on every protocol."""
    text = "model 'failing' version '1' is not ready: RuntimeError: no weights here"
    rest, grpc = infer_both(host, "failing", ONE)
    assert (503, text) == (rest.status, rest.error)
    assert ("UNAVAILABLE", text) == (grpc.status, grpc.error)
    assert {"error": text} == predict(host, "failing", [1]).json()


# -- aiSSEMBLE's packages -----------------------------------------------------


@pytest.mark.parametrize(
    ("path", "homes"),
    [
        (f"{SHARED}.types.dataplane", (types, tensors, list_checks)),
        (f"{SHARED}.handlers.model_handler", (handler,)),
        (f"{SHARED}.handlers.dataplane", (oip_host,)),
        (f"{KSERVE}.aissemble_oip_kserve", (oip_host,)),
    ],
    ids=["types", "handler", "dataplane", "kserve"],
)
def test_import_paths_of_aissemble_give_the_same_objects(
    path: str, homes: tuple[Any, ...]
) -> None:
    """A name imported by its upstream path is the host's own object."""
    module = importlib.import_module(path)
    assert module.__all__
    for name in module.__all__:
        own = next(getattr(home, name) for home in homes if hasattr(home, name))
        assert own is getattr(module, name)


UPSTREAM_HANDLER = f'''
import {SHARED}.types.dataplane as upstream
from {SHARED}.handlers.model_handler import ModelHandler


class Double(ModelHandler):
    """y = 2x, with lists, as handlers for the upstream packages are written."""

    def infer(self, payload, model_name, model_version=None):
        tensor = payload.inputs[0]
        data = [2 * value for value in upstream.flatten(tensor.data.root)]
        output = upstream.ResponseOutput(
            name="y",
            shape=tensor.shape,
            datatype=upstream.Datatype.FP32,
            parameters=upstream.Parameters(content_type="np", own=True),
            data=upstream.TensorData(root=data),
        )
        return upstream.InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            parameters=upstream.Parameters(home=upstream.__file__),
            outputs=[output],
        )

    def model_metadata(self, model_name, model_version=None):
        tensor = upstream.MetadataTensor(
            name="x", datatype=upstream.Datatype.FP32, shape=[-1, 2]
        )
        return upstream.ModelMetadataResponse(
            name=model_name, platform="upstream", inputs=[tensor], outputs=[tensor]
        )

    def model_load(self, model_name):
        return True


class Wrong(Double):
    def infer(self, payload, model_name, model_version=None):
        answer = super().infer(payload, model_name, model_version)
        answer.outputs[0].shape = [7]
        return answer
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The upstream wheel in its own directory, with a handler written for it."""
    target = tmp_path_factory.mktemp("wheel")
    package = "aissemble-open-inference-protocol-shared==1.1.0"
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
        *("--retries", "1", "--timeout", "20", "--disable-pip-version-check"),
        *("--target", str(target), package),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install {package} here: the index is out of reach")
    (target / "upstream_handler.py").write_text(UPSTREAM_HANDLER)
    return target


def test_handler_of_the_upstream_wheel_is_served(
    serve: Callable[..., Server], wheel: Path
) -> None:
    """Handlers with upstream's base class and messages are served like ours."""
    server = serve(
        "--handlers=double=upstream_handler:Double,wrong=upstream_handler:Wrong",
        env={"PYTHONPATH": os.pathsep.join([str(wheel), str(SUPPORT)])},
    ).wait_until_ready()
    for asked in (request([[1.0, 2.0]], [1, 2]), request([1.0, 2.0], [1, 2])):
        reply = infer_rest(server, "double", asked)
        assert 200 == reply.status
        home = reply.document["parameters"]["home"]
        assert Path(home).is_relative_to(wheel)
        output = reply.document["outputs"][0]
        assert ([2.0, 4.0], [1, 2]) == (output["data"], output["shape"])
        assert {"content_type": "np", "own": True} == output["parameters"]
    reply = infer_grpc(server, "double", request([1.0, 2.0], [1, 2]))
    assert [2.0, 4.0] == reply.document["outputs"][0]["data"]
    assert "upstream" == server.get("/v2/models/double").json()["platform"]
    assert 200 == server.get("/v2/models/double/ready").status_code
    rest, grpc = infer_both(server, "double", request([1.0], [2]))
    assert (400, "INVALID_ARGUMENT") == (rest.status, grpc.status)
    rest, grpc = infer_both(server, "wrong", ONE)
    text = (
        "model 'wrong' returned an invalid response: "
        "output 'y': shape [7] needs 7 elements, "
    )
    assert (500, text + "found 1") == (rest.status, rest.error)
    assert ("INTERNAL", text + "found 1") == (grpc.status, grpc.error)


@pytest.mark.parametrize(
    "module", ["types.dataplane", "handlers.model_handler", "handlers.dataplane"]
)
def test_no_name_of_the_upstream_wheel_is_missing(wheel: Path, module: str) -> None:
    """Every public class, function and constant of upstream is here by its path."""
    path = wheel / SHARED / f"{module.replace('.', '/')}.py"
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    public = {name for name in names if not name.startswith("_")} - {"logger"}
    assert public
    assert public <= set(importlib.import_module(f"{SHARED}.{module}").__all__)
