"""The project's files that one small REST inference visits, counted in a real host.

`python tests/support/request_path.py` serves an echo, warms it up, and prints the files
of `oip_host` and `oip_handler` that a request visits, in order. A visit begins where a
function of another file is called, or its coroutine continues.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

import oip_handler
import oip_host

ROOTS = [Path(package.__path__[0]) for package in (oip_handler, oip_host)]
WARM_UP = 200
SAMPLES = 20
BODY = (
    b'{"inputs":[{"name":"x","shape":[2,4],"datatype":"FP32",'
    b'"data":[1.5,2,3,4,5,6,7,8]}]}'
)
REQUEST = (
    b"POST /v2/models/echo/infer HTTP/1.1\r\nhost: localhost\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
) + BODY


class Recorder:
    """Records the project's files in which Python functions begin, while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        self.threads: dict[int, list[str]] = {}
        self._names: dict[str, str | None] = {}

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call, as `sys.setprofile` reports it."""
        if not self.is_on or event != "call":
            return
        name = self._own(frame.f_code.co_filename)
        if name is None:
            return
        visits = self.threads.setdefault(threading.get_ident(), [])
        if not visits or visits[-1] != name:
            visits.append(name)

    def _own(self, file: str) -> str | None:
        """Return a file's path below `src`; None for a file of another project."""
        if file not in self._names:
            roots = [root for root in ROOTS if root in Path(file).parents]
            name = str(Path(file).relative_to(roots[0].parent)) if roots else None
            self._names[file] = name
        return self._names[file]

    def take(self) -> list[str]:
        """Return the visits of all threads since the last call, and forget them."""
        threads, self.threads = self.threads, {}
        return [name for visits in threads.values() for name in visits]


def main() -> None:
    """Serve an echo in this process, and print the path of a request."""
    from oip_host import AissembleOIPKServe
    from support.fakes import Echo

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sys.argv[1:] = [
        f"--http_port={port}", "--grpc_port=0", "--bind=127.0.0.1",
        "--drain_delay_s=0", "--log_level=ERROR",
    ]  # fmt: skip
    recorder = Recorder()
    client = threading.Thread(target=_ask, args=(port, recorder))
    client.start()
    threading.setprofile(recorder.profile)
    sys.setprofile(recorder.profile)
    AissembleOIPKServe("echo", Echo()).start_server()
    client.join()


def _ask(port: int, recorder: Recorder) -> None:
    try:
        with _connect(port) as connection:
            for _ in range(WARM_UP):
                _infer(connection)
            samples = []
            for _ in range(SAMPLES):
                time.sleep(0.01)
                recorder.is_on = True
                _infer(connection)
                time.sleep(0.01)
                recorder.is_on = False
                samples.append(recorder.take())
        _print(min(samples, key=len))  # the other runs contain a timer of the host
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def _connect(port: int) -> socket.socket:
    """Connect to the host as soon as its model is ready."""
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), 30)
            if _infer(connection).startswith(b"HTTP/1.1 200"):
                return connection
            connection.close()
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("the host did not start within 60 s")
        time.sleep(0.1)


def _infer(connection: socket.socket) -> bytes:
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(b"]}"):
        received = connection.recv(65536)
        if not received:
            break
        answer += received
        if answer.startswith(b"HTTP/1.1 5"):
            break
    return answer


def _print(visits: list[str]) -> None:
    print(" > ".join(visits))
    for name, count in Counter(visits).most_common():
        print(f"{count:4} {name}")
    print(f"{len(set(visits))} files, {len(visits)} visits")


if __name__ == "__main__":
    main()
