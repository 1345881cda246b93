"""Bytes that are not valid HTTP are refused like any other wrong request."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from support.process import Server

POST = b"POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    """A server with one model."""
    with Server("--handlers=echo=fakes:Echo") as server:
        yield server.wait_until_ready()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x00\xff" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        POST + b"content-length: abc\r\n\r\n",
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["bytes", "version", "length", "length and chunks", "http2"],
)
def test_invalid_http_is_a_400(host: Server, rubbish: bytes) -> None:
    """Invalid HTTP gets a 400 in the usual error form, and the connection closes."""
    with socket.create_connection(("127.0.0.1", host.http_port), timeout=30) as client:
        client.sendall(rubbish)
        answer = b""
        while part := client.recv(4096):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in head.lower()
    assert {"error": "not a valid HTTP/1.1 request"} == json.loads(body)
    assert 200 == host.get("/v2/health/live").status_code
