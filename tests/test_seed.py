"""Programs run unchanged as the upstream documents show them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oip_host.edge.grpc.messages import message
from support.process import Server, clean_environment, run
from support.wire import ONE, infer_both, request, rpc

Serve = Callable[..., Server]

SEED = Path(__file__).parents[2] / "shared" / "seeds"

COPY = """
from typing import Optional

from aissemble_open_inference_protocol_kserve.aissemble_oip_kserve import (
    AissembleOIPKServe,
)
from aissemble_open_inference_protocol_shared.handlers.model_handler import (
    ModelHandler,
)
from aissemble_open_inference_protocol_shared.types.dataplane import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelMetadataResponse,
)


class Stub(ModelHandler):
    def __init__(self):
        super().__init__()

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: Optional[str] = None,
    ) -> InferenceResponse:
        return InferenceResponse(
            model_name=model_name, model_version=model_version, id="id", outputs=[]
        )

    def model_metadata(
        self,
        model_name: str,
        model_version: Optional[str] = None,
    ) -> ModelMetadataResponse:
        return ModelMetadataResponse(
            name=model_name,
            versions=[model_version] if model_version else None,
            platform="python",
            inputs=[MetadataTensor(name="input", datatype=Datatype.FP32, shape=[1])],
            outputs=[MetadataTensor(name="output", datatype=Datatype.FP32, shape=[1])],
        )

    def model_load(self, model_name: str) -> bool:
        return True


if __name__ == "__main__":
    model = AissembleOIPKServe(name="my_model", model_handler=Stub())
    model.load()
    model.start_server()
"""
"""A program as upstream's documentation has it, for where that is not at hand."""


def cut_out_of_the_document() -> str:
    """Return the two Python blocks of aiSSEMBLE's document in one program.

    The handler comes first, the main program below it; nothing is changed.
    """
    found = sorted(SEED.glob("000_*.txt"))
    if not found:
        pytest.skip("the documents that the project started from are not at hand")
    blocks = re.findall(r"^```python\n(.*?)^```", found[0].read_text(), re.M | re.S)
    assert len(blocks) == 2
    return "\n\n".join(blocks)


@pytest.fixture(params=["document", "copy"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with the program."""
    path = tmp_path / "my_program.py"
    path.write_text(COPY if request.param == "copy" else cut_out_of_the_document())
    return path


def hold_the_program(server: Server) -> None:
    """Check the program's answers on REST and gRPC."""
    server.wait_until_ready()
    expected: dict[str, Any] = {
        "model_name": "my_model",
        "model_version": "1",
        "id": "id",
        "outputs": [],
    }
    rest, grpc = infer_both(server, "my_model", ONE)
    assert (200, expected) == (rest.status, rest.document)
    assert ("OK", expected) == (grpc.status, grpc.document)
    for reply in infer_both(server, "my_model", {**ONE, "id": "mine"}):
        assert "mine" == reply.document["id"]
    metadata = {
        "name": "my_model",
        "versions": ["1"],
        "platform": "python",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [1]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [1]}],
    }
    assert metadata == server.get("/v2/models/my_model").json()
    wire = message("ModelMetadataRequest")(name="my_model")
    answer = rpc(server, "ModelMetadata", wire)
    assert ("my_model", "python") == (answer.name, answer.platform)
    assert rpc(server, "ServerReady").ready is True
    rest, grpc = infer_both(server, "my_model", request([1.0], [2]))
    assert (400, "INVALID_ARGUMENT") == (rest.status, grpc.status)
    assert rest.error == grpc.error


def test_program_serves_with_container_arguments(serve: Serve, program: Path) -> None:
    """The container's `--http_port --grpc_port --bind` configure it; it exits with 0.

    Arguments that are neither the host's nor KServe's are left to the program.
    """
    server = serve("--mine=1", program=(sys.executable, str(program)))
    hold_the_program(server)
    assert 0 == server.stop()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Unconfigured(Server):
    """A program without container arguments."""

    def __init__(self, *program: str, env: dict[str, str]) -> None:
        super().__init__(program=program, env=env)
        self.arguments = list(program)


def test_program_serves_with_environment_variables(program: Path) -> None:
    """Without arguments `KSERVE_HTTP_PORT` and similar variables configure it."""
    http_port, grpc_port = free_port(), free_port()
    environment = {
        "KSERVE_HTTP_PORT": str(http_port),
        "KSERVE_GRPC_PORT": str(grpc_port),
        "OIP_BIND": "127.0.0.1",
        "OIP_DRAIN_DELAY_S": "0",
    }
    with Unconfigured(sys.executable, str(program), env=environment) as server:
        hold_the_program(server)
        assert (http_port, grpc_port) == (server.http_port, server.grpc_port)


def imported(program: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Import the program in a process with arguments that no server would accept."""
    strange = ["--http_port=none", "--model", "x", "--workers", "many", "--help"]
    return subprocess.run(
        [sys.executable, "-c", code, *strange],
        env=clean_environment({"PYTHONPATH": str(program.parent)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_importing_the_program_reads_no_arguments(program: Path) -> None:
    """Any other program can import the module, whatever its arguments are.

    KServe parses `sys.argv` when it is imported; here it never sees it.
    """
    code = (
        "import sys; before = list(sys.argv); import my_program; "
        "assert sys.argv == before, sys.argv; "
        "from kserve import model_server; "
        "assert model_server.args.model_name == 'model', model_server.args; "
        "assert model_server.args.workers == 1; print('imported')"
    )
    done = imported(program, code)
    assert (0, "imported\n") == (done.returncode, done.stdout), done.stderr


def test_importing_the_program_starts_nothing(program: Path) -> None:
    """An import starts no thread, opens no socket and logs nothing."""
    code = (
        "import os, threading; import my_program; "
        "sockets = [f for f in os.listdir('/proc/self/fd') "
        "if os.path.islink(f'/proc/self/fd/{f}') "
        "and os.readlink(f'/proc/self/fd/{f}').startswith('socket:')]; "
        "print(threading.active_count(), sockets)"
    )
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("there is no /proc on this system")
    done = imported(program, code)
    assert (0, "1 []\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("what", ["port", "option"])
def test_configuration_fault_is_one_clear_line(program: Path, what: str) -> None:
    """A user's program exits as the command does: with 2 and the option's name."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1] if what == "port" else "none"
        command = [sys.executable, str(program), f"--http_port={port}"]
        done = run(*command, "--grpc_port=0", "--bind=127.0.0.1")
    assert 2 == done.returncode
    assert "Traceback" not in done.stderr
    option = f"kserve_http_port {port}: " if what == "port" else "--http_port: found "
    assert 1 == sum(option in line for line in done.stderr.splitlines())


def test_program_need_not_load_its_model(serve: Serve, tmp_path: Path) -> None:
    """A model that the program did not load is loaded once the server listens."""
    path = tmp_path / "my_program.py"
    path.write_text(COPY.replace("    model.load()\n", ""))
    server = serve(program=(sys.executable, str(path))).wait_until_ready()
    assert [200, "OK"] == [r.status for r in infer_both(server, "my_model", ONE)]


def test_program_serves_a_model_that_fails_to_load(
    serve: Serve, tmp_path: Path
) -> None:
    """A failed load() leaves the model unavailable, and probes get the reason."""
    path = tmp_path / "my_program.py"
    path.write_text(COPY.replace("return True", "raise OSError('no weights here')"))
    server = serve(program=(sys.executable, str(path)))
    text = "model 'my_model' version '1' is not ready: OSError: no weights here"
    rest, grpc = infer_both(server, "my_model", ONE)
    assert (503, text) == (rest.status, rest.error)
    assert ("UNAVAILABLE", text) == (grpc.status, grpc.error)
    assert text == server.get("/v2/health/ready").json()["error"]
    assert 200 == server.get("/v2/health/live").status_code
