"""The distributions of `make dist`, installed into environments without sources."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support.process import Server

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
PLUGINS = sorted(f"plugins/{path.name}" for path in ROOT.glob("plugins/*"))
PROJECTS = ["handler", ".", *PLUGINS]
CONTRACT_NEEDS = {
    "annotated-types", "ml-dtypes", "numpy", "oip-handler", "pydantic", "pydantic-core",
    "typing-extensions", "typing-inspection",
}  # fmt: skip


def environment() -> dict[str, str]:
    """Return the environment without paths to sources and without host options."""
    dropped = ("OIP_", "PYTHON", "VIRTUAL_ENV")
    return {k: v for k, v in os.environ.items() if not k.startswith(dropped)}


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command, expect success, and return its output."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(), text=True, capture_output=True
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def stem(directory: str) -> str:
    """Return the stem of a project's file names: its name and version."""
    text = (ROOT / directory / "pyproject.toml").read_text()
    name, version = re.findall(r'^(?:name|version) = "(.*)"$', text, re.MULTILINE)[:2]
    return f"{name.replace('-', '_')}-{version}"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that `make dist` fills; it checks each file with twine."""
    directory = tmp_path_factory.mktemp("dist")
    run(
        "make", "dist", f"DIST={directory}", f"VENV={sys.prefix}",
        f"--assume-old={sys.prefix}/.test",
    )  # fmt: skip
    return directory


def wheel(dist: Path, directory: str) -> Path:
    """Return the path of a project's wheel."""
    return dist / f"{stem(directory)}-py3-none-any.whl"


@pytest.fixture
def install(tmp_path: Path, dist: Path) -> Callable[..., Path]:
    """Install wheels of projects, and their requirements, into a fresh environment."""

    def install(*directories: str) -> Path:
        prefix = tmp_path / "environment"
        run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, prefix)
        wheels = [wheel(dist, directory) for directory in directories]
        command: list[str | Path] = [
            BIN / "uv", "pip", "install", "--quiet", "--compile-bytecode",
            "--python", prefix / "bin" / "python",
            "--constraint", ROOT / "constraints.txt", *wheels,
        ]  # fmt: skip
        run(*command, cwd=tmp_path)
        return prefix

    return install


def test_each_distribution_has_a_wheel_and_an_sdist(dist: Path) -> None:
    """`make dist` builds the contract, the host and every plugin, and nothing else."""
    expected = set()
    for directory in PROJECTS:
        expected |= {f"{stem(directory)}-py3-none-any.whl", f"{stem(directory)}.tar.gz"}
    assert expected == {path.name for path in dist.iterdir()} - {".gitignore"}


@pytest.mark.parametrize("directory", PROJECTS)
def test_wheel_has_license_and_types(dist: Path, directory: str) -> None:
    """A wheel has the license text and the PEP 561 marker, and no tests."""
    names = zipfile.ZipFile(wheel(dist, directory)).namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {path.name for path in (ROOT / directory / "src").iterdir()}
    assert {f"{top}/py.typed" for top in tops} <= set(names)
    assert not [name for name in names if "test" in name]


def test_host_wheel_has_the_grpc_messages(dist: Path) -> None:
    """The host's wheel has the descriptor set and the proto that clients compile."""
    names = set(zipfile.ZipFile(wheel(dist, ".")).namelist())
    grpc = "oip_host/edge/grpc"
    assert {f"{grpc}/oip.proto", f"{grpc}/oip.binpb"} <= names


def test_host_sdist_has_no_other_distribution(dist: Path) -> None:
    """The host's sdist has neither the contract nor the plugins."""
    with tarfile.open(dist / f"{stem('.')}.tar.gz") as sdist:
        names = {name.split("/")[1] for name in sdist.getnames() if "/" in name}
    assert {"src", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= names
    assert set() == names & {"handler", "plugins", "tests", "bench", "deploy"}


HANDLERS = """
import asyncio
import sys

import aissemble_open_inference_protocol_shared.handlers.dataplane as dataplane
import aissemble_open_inference_protocol_shared.handlers.model_handler as contract
import aissemble_open_inference_protocol_shared.types.dataplane as types
import oip_handler
from oip_handler import DataplaneHandler, InferenceRequest, InferenceResponse
from oip_handler import ModelHandler, ModelMetadataResponse, ResponseOutput


class Plain(ModelHandler):
    def infer(self, payload, model_name, model_version=None):
        output = ResponseOutput.from_numpy("y", payload.inputs[0].as_numpy() + 1)
        return InferenceResponse(model_name=model_name, outputs=[output])

    def model_metadata(self, model_name, model_version=None):
        return ModelMetadataResponse(
            name=model_name, platform="plus", inputs=[], outputs=[]
        )

    def model_load(self, model_name):
        return True


class Async(Plain):
    async def infer(self, payload, model_name, model_version=None):
        await asyncio.sleep(0)
        return super().infer(payload, model_name, model_version)

    async def model_load(self, model_name):
        return True


x = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}
request = InferenceRequest.model_validate({"inputs": [x]})
for kind in (Plain, Async):
    handler = DataplaneHandler(kind())
    assert handler.model_load("m") is True
    assert [2.0, 3.0] == handler.infer(request, "m").outputs[0].data.root
    response = asyncio.run(handler.infer_async(request, "m"))
    assert [2.0, 3.0] == response.outputs[0].data.root
assert dataplane.DataplaneHandler is DataplaneHandler
assert contract.ModelHandler is ModelHandler
assert types.InferenceRequest is InferenceRequest
assert oip_handler.__file__.startswith(sys.prefix)
print("answered")
"""


def test_contract_wheel_runs_handlers_alone(
    install: Callable[..., Path], tmp_path: Path
) -> None:
    """The contract runs sync and async handlers with only its own requirements."""
    python = install("handler") / "bin" / "python"
    (tmp_path / "program.py").write_text(HANDLERS)
    assert "answered\n" == run(python, "-W", "error", "program.py", cwd=tmp_path)
    freeze = (BIN / "uv", "pip", "freeze", "--python", python)
    installed = run(*freeze, cwd=tmp_path)
    names = re.findall(r"^[\w-]+", installed, re.MULTILINE)
    assert "oip-handler" in names
    assert set(names) <= CONTRACT_NEEDS


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wheels_alone_serve_a_model(
    install: Callable[..., Path], tmp_path: Path
) -> None:
    """The host finds the plugins, passes `check`, and answers an inference."""
    prefix = install(
        "handler", ".", "plugins/oip-handler-sklearn", "plugins/oip-handler-onnx"
    )
    command = str(prefix / "bin" / "oip-host")
    listed = run(command, "list", cwd=tmp_path)
    assert all(name in listed for name in ("iris", "sklearn", "onnx"))
    run(command, "check", "--handlers=iris", cwd=tmp_path)
    x = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}
    program = (command, "serve")
    env = {"PYTHONPATH": ""}
    with Server("--handlers=iris", program=program, env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        reply = server.post("/v2/models/iris/infer", json={"inputs": [x]})
    assert ["setosa"] == reply.json()["outputs"][0]["data"]
