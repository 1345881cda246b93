"""Programs serve models as with KServe's `ModelServer`, and Ray deployments too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import oip_host
from support.process import Server, wait_for
from support.wire import infer_both, request

Serve = Callable[..., Server]

MODELS = """
import json
import os

from kserve import InferOutput, InferRequest, InferResponse, Model

from oip_host import ModelServer


class Doubles(Model):
    def __init__(self, name="doubles"):
        super().__init__(name)
        self.load()

    def load(self):
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, InferRequest):
            array = 2 * payload.inputs[0].as_numpy()
            output = InferOutput("y", list(array.shape), "FP32")
            output.set_data_from_numpy(array, binary_data=False)
            return InferResponse(payload.id or "1", self.name, [output])
        payload = json.loads(payload.decode("utf-8"))
        doubled = [2 * each for each in payload["instances"]]
        return {"predictions": doubled, "process": os.getpid()}

"""

REPLICATED = (
    MODELS
    + """
from ray import serve


@serve.deployment(name="there", num_replicas=1)
class There(Doubles):
    def __init__(self):
        super().__init__("there")


if __name__ == "__main__":
"""
)


def hold(server: Server, model: str, elsewhere: bool) -> None:
    """Check that the model answers V1 and V2 from the expected process."""
    answer = server.post(f"/v1/models/{model}:predict", json={"instances": [1, 2]})
    assert 200 == answer.status_code, answer.text
    assert [2, 4] == answer.json()["predictions"]
    assert elsewhere == (answer.json()["process"] != server.process.pid)
    for reply in infer_both(server, model, request([1.0, 2.0], [2])):
        assert reply.status in (200, "OK"), reply
        assert [2.0, 4.0] == reply.document["outputs"][0]["data"]


def program(path: Path, text: str) -> tuple[str, str]:
    """Return the command that runs a program."""
    file = path / "my_program.py"
    file.write_text(text)
    return sys.executable, str(file)


@pytest.mark.parametrize(
    "start",
    [
        'ModelServer().start([Doubles(), Doubles("other")])',
        'ModelServer().start({"doubles": Doubles(), "other": Doubles()})',
        'ModelServer().start(iter([Doubles(), Doubles("other")]))',
    ],
    ids=["list", "dictionary", "iterator"],
)
def test_models_are_served(serve: Serve, tmp_path: Path, start: str) -> None:
    """A program with KServe models only changes its import."""
    text = f'{MODELS}\nif __name__ == "__main__":\n    {start}\n'
    server = serve(program=program(tmp_path, text)).wait_until_ready()
    for name in ("doubles", "other"):
        hold(server, name, elsewhere=False)
    assert 0 == server.stop()


def test_options_of_the_program_take_precedence(serve: Serve, tmp_path: Path) -> None:
    """A value that the program sets itself wins over its arguments."""
    start = "ModelServer(enable_grpc=False, max_body_bytes=10).start([Doubles()])"
    text = f'{MODELS}\nif __name__ == "__main__":\n    {start}\n'
    command = program(tmp_path, text)
    server = serve("--enable_grpc=true", program=command).wait_until_ready()
    assert 0 == server.grpc_port
    answer = server.post("/v2/models/doubles/infer", content=b"x" * 11)
    assert 413 == answer.status_code


def test_unknown_option_is_a_type_error() -> None:
    """The error names the nearest option."""
    with pytest.raises(TypeError, match="unknown option 'http_prot', nearest: 'http_p"):
        oip_host.ModelServer(http_prot=1)


def test_value_that_is_no_model_is_a_type_error() -> None:
    """The error says what it is and what was expected."""
    with pytest.raises(TypeError, match="model 'm' is a int, expected a "):
        oip_host.ModelServer().start({"m": 1})


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "models",
    [
        '{"here": Doubles(), "there": There}',
        '[Doubles("here"), There]',
    ],
    ids=["dictionary", "list"],
)
@pytest.mark.slow
def test_deployments_and_models_are_served_together(
    serve: Serve, tmp_path: Path, models: str
) -> None:
    """A Ray Serve deployment answers from its replica, a model from the program."""
    pytest.importorskip("ray", reason="Ray is not installed")
    text = f"{REPLICATED}    ModelServer().start({models})\n"
    server = serve(program=program(tmp_path, text))
    ready = "/v2/health/ready"
    wait_for(lambda: server.get(ready).status_code == 200, "readiness", 180)
    hold(server, "here", elsewhere=False)
    hold(server, "there", elsewhere=True)
    assert 0 == server.stop()


def test_deployment_requires_one_worker(tmp_path: Path) -> None:
    """Each worker would have its own replicas, so more are a fault, reported once."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from support.process import run

    text = f'{REPLICATED}    ModelServer().start({{"there": There}})\n'
    done = run(
        *program(tmp_path, text), "--workers=2", "--http_port=0", "--grpc_port=0"
    )
    fault = "kserve_workers: found 2, expected 1 for models with replicas: there"
    assert (2, 1) == (done.returncode, done.stderr.count(fault)), done.stderr
