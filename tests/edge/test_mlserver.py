"""MLServer's codecs as a client, in a separate environment.

mlserver needs other versions of kserve's dependencies, so the two cannot be installed
together.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.process import SUPPORT, Server, clean_environment, run

pytestmark = pytest.mark.slow  # the environment takes a minute

MLSERVER = ("mlserver==1.7.1", "setuptools<81")
UV = Path(sys.executable).parent / "uv"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a fresh environment with mlserver."""
    if not UV.exists():
        pytest.skip("uv, which `make test` installs, is not beside this Python")
    target = tmp_path_factory.mktemp("mlserver") / "venv"
    for command in (
        [str(UV), "venv", "--quiet", "--python", sys.executable, str(target)],
        [str(UV), "pip", "install", "--quiet", "--python", str(target), *MLSERVER],
    ):
        done = subprocess.run(
            command, env=clean_environment(), capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"mlserver cannot be installed here: {done.stderr[-300:]}")
    return str(target / "bin" / "python")


@pytest.mark.timeout(240)
def test_mlserver_encodings_come_back_equal(
    serve: Callable[..., Server], python: str
) -> None:
    """Arrays, text, metadata, health and errors are what MLServer's types expect."""
    server = serve("--handlers=echo=fakes:Echo").wait_until_ready()
    done = run(python, str(SUPPORT / "client_mlserver.py"), server.url)
    assert done.returncode == 0, done.stderr
    assert {
        "arrays": dict.fromkeys(("float32", "float64", "int64", "uint8", "bool"), True),
        "strings": ["a", "ü"],
        "metadata": "x",
        "ready": 200,
        "error": {"error": "model 'none' is not on this server"},
    } == json.loads(done.stdout)
