"""Start-up side by side: this host with its embedded default, and a bare KServe server.

    make bench-start          or: python -m bench.startup [ROUNDS]

Each round starts both afresh, one after the other, and takes the seconds from the start
of the process to the first 200 of `/v2/health/ready`. What counts is the ratio: KServe
serves one custom model that does nothing, and says that it is ready when it listens;
the host fits scikit-learn's iris model before it says so.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.processes import free_ports, run_server

KSERVE = """
from kserve import Model, ModelServer

from bench.apps.loopback import keep_to_loopback

class Custom(Model):
    def predict(self, payload, headers=None):
        return payload

model = Custom("custom")
model.load()
keep_to_loopback()
ModelServer().start([model])
"""
HOST = [str(Path(sys.executable).parent / "oip-host"), "serve", "--bind=127.0.0.1"]
ENVIRONMENT = {
    "OIP_HANDLERS": "iris",
    "OIP_DRAIN_DELAY_S": "0",
    "PYTHONPATH": str(Path(__file__).parent.parent),
}


def seconds_to_ready(command: list[str]) -> float:
    """Start a server, wait until it is ready, stop it."""
    http_port, grpc_port = free_ports(2)
    ports = [f"--http_port={http_port}", f"--grpc_port={grpc_port}"]
    with (
        TemporaryDirectory(prefix="oip-bench-") as directory,
        run_server(
            [*command, *ports], ENVIRONMENT, http_port, Path(directory)
        ) as server,
    ):
        return server.start_s


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
