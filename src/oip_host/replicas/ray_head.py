"""A Ray of the host's own, started and ended by a process beside the host.

`python -m oip_host.replicas.ray_head <directory> <cpus>` starts Ray on the loopback
interface, writes its address on its standard output, and ends it at the end of its
standard input, which even a SIGKILL of the host brings about. Ray's processes follow
their parent into its death, but for two agents; so it ends every process that was
started with the directory in the variable `MARK`, and removes the directory.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["MARK"]

MARK = "OIP_RAY_DIRECTORY"
"""The variable that Ray's processes inherit, with the directory of their session."""
ENDS_S = 5.0
"""Seconds that Ray has to end by itself."""
LONGEST_S = 15.0
"""Seconds after which it gives up on a process that does not end."""
QUIET_S = 0.3
"""Seconds without such a process after which no other is about to come."""


def main() -> None:
    """Keep a Ray until the standard input ends."""
    directory, cpus = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _keep(directory, int(cpus))
    finally:
        _clear_up(directory)
    os._exit(0)  # Ray's own end waits for what is no more


def _keep(directory: str, cpus: int) -> None:
    import ray

    started: Any = ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _temp_dir=f"{directory}/ray",  # Ray opens it to everybody
        _node_ip_address="127.0.0.1",
    )
    print(started.address_info["gcs_address"], flush=True)
    sys.stdin.buffer.read()
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(ENDS_S)  # it waits for minutes where a part of Ray has died


def _clear_up(directory: str) -> None:
    mark = f"{MARK}={directory}".encode()
    end = time.monotonic() + LONGEST_S
    quiet_from = time.monotonic()
    while time.monotonic() < min(end, quiet_from + QUIET_S):
        for process in _find_marked(mark):
            quiet_from = time.monotonic()
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(QUIET_S / 5)
    shutil.rmtree(directory, ignore_errors=True)


def _find_marked(mark: bytes) -> Iterator[int]:
    """Find the other processes that were started with a variable of this value."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # no process, or it ended, or is another user's
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                process = int(entry.name) if entry.name.isdigit() else os.getpid()
                if process != os.getpid():
                    yield process


if __name__ == "__main__":
    main()
