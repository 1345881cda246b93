"""The container image, built and run as its users do, if this machine can."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import images
from support.documents import ROOT, page
from support.images import Container, running
from support.wheels import ABOUT, HANDLER, REQUIRED, Wheel

EXAMPLE = ROOT / "deploy" / "examples" / "iris" / "Containerfile"
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
REASON = images.why_not()
builds = pytest.mark.skipif(REASON is not None, reason=str(REASON))
UID = 1234567
LARGEST = 600_000_000


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of this tree."""
    name = images.build(tmp_path_factory.mktemp("image"))
    yield name
    images.remove(name)


@pytest.fixture
def port() -> int:
    """A port that is free at this moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def about(container: Container, model: str) -> list[Any]:
    answer = container.infer(model, ABOUT)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["outputs"][0]["data"])


def mounted(directory: Path, inside: str) -> str:
    """Make a directory readable for all users and return the option to mount it."""
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return f"--volume={directory}:{inside}:ro"


# -- the files ----------------------------------------------------------------


def test_example_has_three_lines() -> None:
    """A handler is added in three lines, on the released version."""
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) == 3
    assert version is not None
    assert lines[0] == f"FROM oip-host:{version[1]}"
    assert f"```dockerfile\n{EXAMPLE.read_text()}```" in page("container.md")


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed")
@pytest.mark.parametrize("path", [CONTAINERFILE, EXAMPLE], ids=["image", "example"])
def test_container_files_pass_their_linter(path: Path) -> None:
    """hadolint finds nothing; the image itself sets that pip keeps no cache."""
    done = subprocess.run(
        ["hadolint", "--ignore", "DL3042", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def test_missing_builder_is_named_by_the_script(tmp_path: Path) -> None:
    """Without any of the three builders the script names them and exits with 2."""
    for tool in ("sh", "sed", "dirname"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [str(ROOT / "deploy" / "build-image")],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "found neither buildah nor podman nor docker" in done.stderr


# -- the image ----------------------------------------------------------------


@builds
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_image_is_slim_and_describes_itself(image: str) -> None:
    """Its size, labels, user, ports, command and health check are as expected."""
    document = json.loads(images.command("podman", "image", "inspect", image))[0]
    config, labels = document["Config"], document["Labels"]
    assert images.size(image) < LARGEST
    assert config["User"] == "10001:0"
    assert set(config["ExposedPorts"]) == {"8080/tcp", "8081/tcp"}
    assert config["Entrypoint"] == ["/opt/oip/venv/bin/oip-host", "serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert "/opt/oip/healthcheck.py" in document["Healthcheck"]["Test"]
    title = "org.opencontainers.image."
    assert labels[f"{title}title"] == "oip-host"
    assert labels[f"{title}licenses"] == "Apache-2.0"
    assert labels[f"{title}version"]


@builds
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_image_without_a_handler_is_a_fault(image: str, port: int) -> None:
    """The image contains no model, and without an added one it exits with 2."""
    with running(image, port) as container:
        assert container.exit_code() == 2
        assert "no handler is installed" in container.log


@builds
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mounted_wheels_and_models_are_served(
    image: str, port: int, tmp_path: Path
) -> None:
    """Wheels at /opt/oip/plugins serve files at /mnt/models, for a user without a name.

    The root is read-only, the packages are precompiled, no index is used, and the
    container exits with 0.
    """
    Wheel(modules={"wheeled": REQUIRED}).write(tmp_path / "plugins")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m").write_text("weights")
    volumes = [
        mounted(tmp_path / "plugins", "/opt/oip/plugins"),
        mounted(tmp_path / "models", "/mnt/models"),
    ]
    with running(
        image, port, options=[*volumes, "--env", "OIP_HANDLERS=m=wheeled"]
    ) as container:
        container.wait_until_ready()
        file, path, uid, gid, text = about(container, "m")
        assert file.startswith("/tmp/oip-plugins-")
        assert (path, text) == ("/mnt/models/m", "weights")
        assert (int(uid), int(gid)) == (UID, 0)

        for place in ("/opt/oip", "/opt/oip/handlers", "/usr", "/mnt/models"):
            assert "Read-only" in container.execute("touch", f"{place}/x").stderr
        health = ("/opt/oip/venv/bin/python", "-IS", "/opt/oip/healthcheck.py")
        assert container.execute(*health).returncode == 0
        program = "import numpy, getpass; print(numpy.__cached__, getpass.getuser())"
        cached, user = container.execute("python", "-c", program).stdout.split()
        assert (container.execute("test", "-s", cached).returncode, user) == (0, "oip")
        assert container.stop() == 0


@builds
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_unpacked_directory_is_used_in_place(
    image: str, port: int, tmp_path: Path
) -> None:
    """Unpacked packages serve from the volume, also for the image's own user."""
    Wheel().unpack(tmp_path / "plugins")
    volume = mounted(tmp_path / "plugins", "/opt/oip/plugins")
    with running(
        image, port, options=[volume], arguments=["--handlers=wheeled"], user="10001:0"
    ) as container:
        file, _, uid, _ = about(container.wait_until_ready(), "wheeled")
        assert (file, uid) == ("/opt/oip/plugins/wheeled.py", "10001")
        assert container.stop() == 0


@builds
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_conflicting_wheel_is_a_fault(image: str, port: int, tmp_path: Path) -> None:
    """Every wheel that does not fit is named before anything is served."""
    Wheel(requires=["numpy<1"]).write(tmp_path)
    Wheel("numpy", "1.0", modules={"numpy": HANDLER}, handlers={}).write(tmp_path)
    volume = mounted(tmp_path, "/opt/oip/plugins")
    with running(image, port, options=[volume]) as container:
        assert container.exit_code() == 2
        assert "numpy-1.0-py3-none-any.whl is numpy 1.0, but the host" in container.log
        assert "wheeled-1.0-py3-none-any.whl requires numpy<1, found" in container.log


@builds
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_image_of_three_lines_serves_iris(
    image: str, port: int, tmp_path: Path
) -> None:
    """`FROM oip-host`, a pip install and the selection are all that is needed."""
    iris = images.build_from(image, EXAMPLE, tmp_path)
    body = {"inputs": [
        {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
    ]}  # fmt: skip
    try:
        with running(iris, port) as container:
            answer = container.wait_until_ready().infer("iris", body).json()
            assert answer["outputs"][0]["data"] == ["setosa"]
            checked = container.execute("pip", "check")
            assert "No broken requirements" in checked.stdout
            assert container.stop() == 0
    finally:
        images.remove(iris)
