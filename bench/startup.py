"""Start-up side by side: this host with its embedded default, and a bare KServe server.

    make bench-start          or: python bench/startup.py [ROUNDS]

Each round starts both afresh, one after the other, and takes the seconds from the start
of the process to the first 200 of `/v2/health/ready`. What counts is the ratio: KServe
serves one custom model that does nothing, and says that it is ready when it listens;
the host fits scikit-learn's iris model before it says so.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

KSERVE = """
from kserve import Model, ModelServer

class Custom(Model):
    def predict(self, payload, headers=None):
        return payload

model = Custom("custom")
model.load()
ModelServer().start([model])
"""
HOST = [str(Path(sys.executable).parent / "oip-host"), "serve", "--bind=127.0.0.1"]
DEADLINE_S = 60


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seconds_to_ready(command: list[str]) -> float:
    """Start a server, wait until it is ready, stop it."""
    port = free_port()
    arguments = [f"--http_port={port}", f"--grpc_port={free_port()}"]
    environment = {**os.environ, "OIP_HANDLERS": "iris", "OIP_DRAIN_DELAY_S": "0"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.perf_counter() - started < DEADLINE_S:
            try:
                url = f"http://127.0.0.1:{port}/v2/health/ready"
                with urllib.request.urlopen(url, timeout=5):
                    return time.perf_counter() - started
            except (urllib.error.URLError, OSError):
                time.sleep(0.025)  # seldom enough to take no time from the start
        raise SystemExit(f"{command} was not ready within {DEADLINE_S} s")
    finally:
        process.terminate()
        process.wait(timeout=DEADLINE_S)


def main(rounds: int) -> None:
    """Print both medians and the ratio of each round."""
    kserve, host = [], []
    for _ in range(rounds):
        kserve.append(seconds_to_ready([sys.executable, "-c", KSERVE]))
        host.append(seconds_to_ready(HOST))
    ratios = [ours / theirs for ours, theirs in zip(host, kserve, strict=True)]
    for name, values in (("kserve s", kserve), ("oip-host s", host), ("ratio", ratios)):
        print(
            f"{name:>10}  min {min(values):.2f}  "
            f"median {statistics.median(values):.2f}  max {max(values):.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
