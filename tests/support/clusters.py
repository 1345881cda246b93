"""Ray clusters for tests, which hosts join, and the processes they leave behind."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from oip_host.replicas.ray_head import MARK
from support.process import clean_environment


def processes_of(mark: str) -> list[int]:
    """Return the processes whose environment at start contains a text."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if mark in (entry / "environ").read_text("latin-1"):
                found.append(int(entry.name))
        except (
            OSError,
            ValueError,
        ):  # not a process, or it ended, or it belongs to another user
            continue
    return found


class _Apart:
    """A Ray in separate processes, and the variables with which a host joins it."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self.directory = tempfile.mkdtemp(prefix="oip-test-", dir="/tmp")
        self.token = secrets.token_hex(16)
        self.variables = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            **(variables or {}),
        }
        """What a host that joins has in its environment."""

    def _start(self, *command: str) -> str:
        """Start a program that runs a Ray, and return the first line that it writes."""
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**clean_environment(self.variables), MARK: self.directory},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "Ray did not start"
        return line

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        finally:
            self._process.stdout.close()
            for process in processes_of(f"{MARK}={self.directory}"):
                os.kill(process, signal.SIGKILL)
            shutil.rmtree(self.directory, ignore_errors=True)


class Ray(_Apart):
    """A cluster of one node on the loopback interface, as a host starts it."""

    def __enter__(self) -> Ray:
        self.address = self._start(
            "-m", "oip_host.replicas.ray_head", self.directory, "16"
        )
        return self


class TwoNodes(_Apart):
    """A cluster of two nodes with one CPU each, one of which can be killed."""

    def __enter__(self) -> TwoNodes:
        program = Path(__file__).with_name("two_nodes.py")
        self.address, second = self._start(str(program), self.directory).split()
        self.second = int(second)
        """The process of the second node, whose children are its replicas."""
        return self

    def kill_the_second(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        assert "killed" == self._process.stdout.readline().strip()
