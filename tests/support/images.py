"""Container images for a test: their bases, the image, and a container of it.

No registry is used. The bases are made of Debian packages, from the sources of the
machine's own apt, and stay in podman's storage for the next run. TEST_IMAGE_BASE and
TEST_IMAGE_RUNBASE replace them.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from support.documents import ROOT
from support.process import DEADLINE_S, wait_for

HTTP_OK = 200
BUILD_S = 900.0
_LOCALHOST = "localhost/oip-host-test"
_PACKAGES = {
    "run": ["python3-minimal", "python3", "ca-certificates", "libstdc++6"],
    "build": ["python3", "python3-venv", "python3-pip", "ca-certificates"],
}
_NEEDED = ("buildah", "podman", "runc")
_LIMITS = ("--ulimit", "nofile=4096:8192", "--ulimit", "nproc=4096:8192")
"""What podman asks for by itself may be more than the machine allows."""


def why_not() -> str | None:
    """Return the reason why this machine cannot build and run images, or None."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    if os.geteuid() != 0:
        return "images are built as root"
    given = {"TEST_IMAGE_BASE", "TEST_IMAGE_RUNBASE"} <= os.environ.keys()
    if not given and shutil.which("mmdebstrap") is None:
        return "mmdebstrap is not installed, and TEST_IMAGE_BASE is not set"
    if not given and _codename() != "bookworm":
        return f"Debian bookworm is needed for its Python 3.11, found {_codename()}"
    return None


def _codename() -> str:
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "another system")


def command(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output; raise AssertionError if it fails."""
    done = subprocess.run(
        arguments,
        env={**os.environ, **(env or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}:\n{done.stdout[-3000:]}{done.stderr}"
    return done.stdout


def base(kind: str, directory: Path) -> str:
    """Return the base image's name, to `build` or to `run` in; make it if missing."""
    name = "TEST_IMAGE_BASE" if kind == "build" else "TEST_IMAGE_RUNBASE"
    if name in os.environ:
        return os.environ[name]
    image = f"{_LOCALHOST}-{kind}:bookworm"
    if subprocess.run(["podman", "image", "exists", image], check=False).returncode:
        archive = directory / f"{kind}.tar"
        command(
            "mmdebstrap", "--variant=essential",
            f"--include={','.join(_PACKAGES[kind])}",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "bookworm", str(archive), f"deb {_mirror()} bookworm main",
        )  # fmt: skip
        command("podman", "import", str(archive), image)
        archive.unlink()
    return image


def _mirror() -> str:
    """Return the URL from which this machine's apt gets Debian."""
    for path in sorted(Path("/etc/apt").rglob("*.sources")) + sorted(
        Path("/etc/apt").rglob("*.list")
    ):
        found = re.search(r"^(?:URIs:|deb)[^#\n]*?(https?://\S+/debian/?)\s*",
                          path.read_text(), re.MULTILINE)  # fmt: skip
        if found:
            return found[1]
    raise AssertionError("apt has no source of Debian, set TEST_IMAGE_BASE")


def build(directory: Path) -> str:
    """Build the image as `make image` does, and return its name."""
    image = f"{_LOCALHOST}:{uuid.uuid4().hex[:12]}"
    command(
        str(ROOT / "deploy" / "build-image"),
        env={
            "IMAGE": image,
            "BASE": base("build", directory),
            "RUNBASE": base("run", directory),
            "BUILDER": "buildah",
            "BUILD_ARGS": "--isolation chroot --network host --layers=false --force-rm",
        },
    )
    return image


def build_from(image: str, containerfile: Path, directory: Path) -> str:
    """Build an image from the image, with this machine's way to its index for pip."""
    name = f"{_LOCALHOST}-from:{uuid.uuid4().hex[:12]}"
    volumes = []
    if authority := os.environ.get("PIP_CERT"):
        configuration = directory / "pip.conf"
        configuration.write_text("[global]\ncert = /etc/ca.crt\n")
        volumes = [f"--volume={authority}:/etc/ca.crt:ro"]
        volumes += [f"--volume={configuration}:/etc/pip.conf:ro"]
    command(
        "buildah", "build", "--isolation", "chroot", "--network", "host",
        "--layers=false", "--force-rm",
        "--format", "docker", "--from", image, *volumes,
        "--file", str(containerfile), "--tag", name, ".",
    )  # fmt: skip
    return name


def remove(*images: str) -> None:
    """Remove images."""
    for image in images:
        command("podman", "rmi", image)


def size(image: str) -> int:
    """Return the size of all layers of an image in bytes."""
    return int(json.loads(command("podman", "image", "inspect", image))[0]["Size"])


@dataclass(frozen=True)
class Container:
    """A running container on the network of this machine."""

    name: str
    port: int

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30)

    def infer(self, model: str, body: object) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/v2/models/{model}/infer"
        return httpx.post(url, json=body, timeout=30)

    def wait_until_ready(self) -> Container:
        def ready() -> bool:
            assert self.runs, self.log
            try:
                return self.get("/v2/health/ready").status_code == HTTP_OK
            except httpx.TransportError:
                return False

        wait_for(ready, "readiness", 2 * DEADLINE_S)
        return self

    @property
    def runs(self) -> bool:
        return self._inspected("{{.State.Running}}") == "true"

    @property
    def log(self) -> str:
        done = subprocess.run(
            ["podman", "logs", self.name], capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def execute(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        return subprocess.run(
            ["podman", "--runtime", "runc", "exec", self.name, *arguments],
            capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        command("podman", "--runtime", "runc", "stop", "--time", "30", self.name)
        return self.exit_code()

    def exit_code(self) -> int:
        """Wait for the end of the container and return its exit code."""
        wait_for(lambda: not self.runs, "the end of the container")
        return int(self._inspected("{{.State.ExitCode}}"))

    def _inspected(self, form: str) -> str:
        return command("podman", "inspect", "--format", form, self.name).strip()


@contextmanager
def running(
    image: str,
    port: int,
    *,
    options: Sequence[str] = (),
    arguments: Sequence[str] = (),
    user: str = "1234567:0",
) -> Iterator[Container]:
    """Run a container of the image with a read-only root; remove it at the end."""
    name = f"oip-host-test-{uuid.uuid4().hex[:12]}"
    command(
        "podman", "--runtime", "runc", "run", "--detach", "--name", name,
        "--network", "host", "--cgroups", "enabled", *_LIMITS, "--no-healthcheck",
        "--user", user, "--read-only", "--read-only-tmpfs", "--cap-drop", "all",
        "--security-opt", "no-new-privileges",
        "--env", "OIP_BIND=127.0.0.1", "--env", f"KSERVE_HTTP_PORT={port}",
        "--env", "KSERVE_GRPC_PORT=0", "--env", "OIP_DRAIN_DELAY_S=0",
        # an unreachable index, in case anything asks one
        "--env", "PIP_INDEX_URL=http://127.0.0.1:9", *options, image, *arguments,
    )  # fmt: skip
    try:
        yield Container(name, port)
    finally:
        command("podman", "--runtime", "runc", "rm", "--force", "--time", "5", name)
