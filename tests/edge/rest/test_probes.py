"""The probe port: health and metrics in clear text, whatever other ports require."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from oip_host.edge.rest.probes import PATHS
from support.process import Server, oip_host, wait_for

Serve = Callable[..., Server]

ECHO = "--handlers=echo=fakes:Echo"


def probe(server: Server, path: str, method: str = "GET") -> httpx.Response:
    """Ask the probe port, where the log says that it is."""
    address = server.log.split("probes at ")[1].split()[0].rstrip(",")
    return httpx.request(method, f"http://{address}{path}", timeout=30)


def test_probe_port_answers_only_health_and_metrics(serve: Serve) -> None:
    """The same answers as the HTTP port's; every other path is 404, in the one form.

    It asks for no token. Its connections are its own: more clients than both limits
    allow change nothing.
    """
    token = {"AUTH_ENABLED": "true", "AUTH_SECRET": 32 * "x"}
    server = serve(ECHO, "--probe_port=0", "--max_connections=1", env=token)
    server.wait_until_ready()
    for path in PATHS[:2]:
        assert probe(server, path).json() == server.get(path).json()
        assert probe(server, path, "HEAD").status_code == 200
        assert probe(server, path, "POST").status_code == 405
    assert 'oip_model_ready{model_name="echo"' in probe(server, "/metrics").text
    assert server.get("/metrics").status_code == 401
    for path in ("/", "/v2", "/v2/models/echo/ready", "/v2/health/live/", "/docs"):
        for method in ("GET", "POST"):
            answer = probe(server, path, method)
            text = f"no such path on the probe port, expected {', '.join(PATHS)}"
            assert (answer.status_code, answer.json()) == (404, {"error": text})
    with ExitStack() as stack:
        for _ in range(80):
            address = ("127.0.0.1", server.http_port)
            stack.enter_context(socket.create_connection(address, 30))
        assert probe(server, PATHS[0]).json() == {"live": True}
    assert "Traceback" not in server.log


def test_probe_port_answers_until_the_last_request(
    serve: Serve, tmp_path: Path
) -> None:
    """A stopping server is live and not ready, and accepts no other connections."""
    server = serve(
        "--handlers=gated=fakes:Gated",
        "--probe_port=0",
        env={"GATE_DIR": str(tmp_path)},
    ).wait_until_ready()
    body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["a"]}]}'
    head = (
        b"POST /v2/models/gated/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.http_port), 30) as client:
        client.sendall(head % len(body) + body)
        wait_for((tmp_path / "a.started").exists, "the call")
        server.process.send_signal(signal.SIGTERM)

        def is_closed() -> bool:
            with socket.socket() as late:
                return late.connect_ex(("127.0.0.1", server.http_port)) != 0

        wait_for(is_closed, "the end of the HTTP port")
        assert probe(server, "/v2/health/ready").status_code == 503
        assert probe(server, "/v2/health/live").status_code == 200
        (tmp_path / "a.open").touch()
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    assert server.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_taken_probe_port_stops_the_host(workers: int) -> None:
    """A taken probe port is reported together with other taken ports."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = oip_host(
            "serve", ECHO, "--bind=127.0.0.1", f"--workers={workers}",
            f"--http_port={port}", "--grpc_port=0", f"--probe_port={port}",
        )  # fmt: skip
    assert done.returncode == 2
    for option in ("kserve_http_port", "oip_probe_port"):
        assert f"error: {option} {port}: " in done.stderr
