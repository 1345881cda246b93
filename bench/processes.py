"""Starts a server on free ports of the loopback interface, and stops all of it."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.measure import tree

__all__ = ["Running", "free_ports", "run_server"]

POLL_S = 0.01
STOP_S = 20.0


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    pid: int
    start_s: float
    """From the start of the process to the first 200 of /v2/health/ready."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in probes:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in probes]


@contextmanager
def run_server(
    command: Sequence[str],
    env: Mapping[str, str],
    http_port: int,
    directory: Path,
    deadline_s: float = 120.0,
) -> Iterator[Running]:
    """Start a server, wait until it is ready, and stop it, whatever happens.

    OSError where it ends or is not ready in time, with the end of what it printed.
    """
    log = directory / "log"
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment(env),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours: we stop the server
        )
    try:
        while not _ready(http_port):
            if process.poll() is not None:
                raise OSError(f"ended with exit code {process.returncode}{_end(log)}")
            if time.perf_counter() - started > deadline_s:
                raise OSError(f"was not ready within {deadline_s:g} s{_end(log)}")
            time.sleep(POLL_S)
        yield Running(process.pid, time.perf_counter() - started)
    finally:
        _stop(process)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return this environment with more, but without what configures a server."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(
            ("OIP_", "KSERVE_", "KRAUSENING_", "MLSERVER_", "PYTHON")
        )
    }
    return {**kept, **more}


def _ready(port: int) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        link.request("GET", "/v2/health/ready")
        return link.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def _end(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-20:]
    return "".join(f"\n    {line}" for line in lines)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, and end what is left of its processes."""
    family = tree(process.pid)
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in psutil.wait_procs(family, timeout=0)[1]:
        with suppress(psutil.NoSuchProcess):
            left.kill()  # psutil knows its start time too: never another with this pid
