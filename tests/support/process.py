"""A real `oip-host serve` (or another program) in a separate process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

COMMAND = str(Path(sys.executable).parent / "oip-host")
SUPPORT = Path(__file__).parent
DEADLINE_S = 120.0
"""What any wait of a test has: too much for a fault, and enough for a busy machine."""
_LISTENING = re.compile(r"REST at https?://[^:]+:(\d+)(?:, gRPC at [^:]+:(\d+))?")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this environment without the host's options, with the tests' handlers."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OIP_", "KSERVE_", "KRAUSENING_", "AUTH_"))
    }
    path = os.pathsep.join(filter(None, [str(SUPPORT), kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, **(extra or {})}


def wait_for(
    condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S
) -> Any:
    """Return the first true value of a condition; AssertionError after the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {deadline_s:g} s")


class Server:
    """A host on free ports of the loopback interface; stopped by its process id."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = (COMMAND, "serve"),
        drain_delay_s: float = 0.0,
        cwd: Path | None = None,
    ) -> None:
        ports = ["--http_port=0", "--grpc_port=0", "--bind=127.0.0.1"]
        self.arguments = [
            *program, *ports, f"--drain_delay_s={drain_delay_s:g}", *arguments,
        ]  # fmt: skip
        self.arguments += _replicated(arguments)
        self._env = clean_environment(env)
        self._cwd = cwd
        self._lines: list[str] = []
        self.http_port = self.grpc_port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def log(self) -> str:
        """Return the output of the process so far, from both of its streams."""
        return "".join(self._lines)

    def __enter__(self) -> Server:
        self.process = subprocess.Popen(
            self.arguments,
            env=self._env,
            cwd=self._cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._wait_until_listening()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)

    def _wait_until_listening(self) -> None:
        def ports() -> re.Match[str] | None:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{self.log}")
            return _LISTENING.search(self.log)

        found = wait_for(ports, f"listening of {self.arguments}")
        self.http_port = int(found[1])
        self.grpc_port = int(found[2] or 0)

    def wait_until_ready(self) -> Server:
        patience_s = 4 * DEADLINE_S if "TEST_REPLICAS_AT" in os.environ else DEADLINE_S
        ready = "/v2/health/ready"
        wait_for(lambda: self.get(ready).status_code == 200, "readiness", patience_s)
        return self

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=DEADLINE_S)

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=DEADLINE_S, **arguments)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=DEADLINE_S)
        self._reader.join(timeout=DEADLINE_S)
        return code

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(timeout=DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _replicated(arguments: Sequence[str]) -> list[str]:
    """Return more arguments if the tests are to run every model in a replica.

    TEST_REPLICAS_AT is the address of the Ray for these replicas.
    """
    address = os.environ.get("TEST_REPLICAS_AT")
    chosen = [a.removeprefix("--handlers=") for a in arguments if "--handlers=" in a]
    if address is None or not chosen:
        return []
    names = {re.split("[@=]", item)[0] for item in chosen[0].split(",")}
    replicas = [f"--models.{name}.replicas=1" for name in sorted(names)]
    cpus = [f"--models.{name}.num_cpus=0.1" for name in sorted(names)]
    return [f"--ray_address={address}", *replicas, *cpus]


def run(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for its end."""
    return subprocess.run(
        arguments,
        env=clean_environment(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def oip_host(*arguments: str, env: Mapping[str, str] | None = None) -> Any:
    """Run an `oip-host …` command and wait for its end."""
    return run(COMMAND, *arguments, env=env)
