"""Requests that two servers might understand differently, and bodies that explode.

A request that a proxy in front reads as one must be the same one request here.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
import zlib
from collections.abc import Iterator

import grpc
import pytest

from oip_handler.errors import InvalidRequest, PayloadTooLarge
from oip_host.edge.grpc.messages import SERVICE, message
from oip_host.edge.rest import compression
from support.process import Server
from support.wire import ONE

BODY = json.dumps(ONE).encode()
INFER = b"POST /v2/models/echo/infer HTTP/1.1\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\n"
HOST = b"host: x\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
BODY_BYTES = 4 << 20
INVALID = "not a valid HTTP/1.1 request"
TWICE = "duplicate header {}"
CODING = "Transfer-Encoding: found another coding, expected 'chunked'"


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    limits = ("--max_header_bytes=100000", f"--max_body_bytes={BODY_BYTES}")
    with Server("--handlers=echo=fakes:Echo", *limits) as server:
        yield server.wait_until_ready()
        assert "Traceback" not in server.log


def said(host: Server, sent: bytes) -> bytes:
    """Return all that the server sends on one connection until it closes it."""
    with socket.create_connection(("127.0.0.1", host.http_port), timeout=30) as client:
        client.sendall(sent)
        parts = []
        try:
            while part := client.recv(1 << 16):
                parts.append(part)
        except ConnectionResetError:  # it had not read all
            pass
    return b"".join(parts)


def post(fields: bytes, body: bytes) -> bytes:
    return INFER + HOST + fields + b"\r\n" + body


def get(target: bytes, fields: bytes = HOST) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (target, fields)


REFUSED = {
    # two lengths
    "both framings": (post(LENGTH + CHUNKED, CHUNKS), 400, INVALID),
    "both framings, turned": (post(CHUNKED + LENGTH, CHUNKS), 400, INVALID),
    "both framings of a GET": (get(b"/v2", HOST + LENGTH + CHUNKED), 400, INVALID),
    "two lengths": (post(LENGTH + b"content-length: 3\r\n", BODY), 400, INVALID),
    "one length twice": (post(LENGTH + LENGTH, BODY), 400, INVALID),
    "a list of lengths": (post(b"content-length: 3, 3\r\n", BODY), 400, INVALID),
    "a length with a sign": (post(b"content-length: +3\r\n", BODY), 400, INVALID),
    "a negative length": (post(b"content-length: -1\r\n", BODY), 400, INVALID),
    "an endless length": (
        post(b"content-length: %s\r\n" % (b"9" * 30), BODY),
        400,
        INVALID,
    ),
    "no length": (post(b"content-length: \r\n", BODY), 400, INVALID),
    "an upgrade with both": (
        post(b"connection: upgrade\r\nupgrade: h2c\r\n" + LENGTH + CHUNKED, CHUNKS),
        400,
        INVALID,
    ),
    # codings
    "chunked is not last": (
        post(b"transfer-encoding: chunked, identity\r\n", CHUNKS),
        400,
        INVALID,
    ),
    "chunked twice": (post(CHUNKED + CHUNKED, CHUNKS), 400, INVALID),
    "chunked is not alone": (
        post(b"transfer-encoding: gzip, chunked\r\n", CHUNKS),
        501,
        CODING,
    ),
    "another coding": (post(b"transfer-encoding: xchunked\r\n", CHUNKS), 501, CODING),
    "identity": (post(b"transfer-encoding: identity\r\n", CHUNKS), 501, CODING),
    "a coding by HTTP/1.0": (
        post(CHUNKED, CHUNKS).replace(b"/1.1", b"/1.0"),
        400,
        "Transfer-Encoding: found together with Content-Length or HTTP/1.0",
    ),
    "a chunk with a sign": (post(CHUNKED, b"-1\r\n\r\n0\r\n\r\n"), 400, INVALID),
    "a chunk as Python has it": (post(CHUNKED, b"0x1\r\n \r\n0\r\n\r\n"), 400, INVALID),
    "a chunk beyond 64 bits": (post(CHUNKED, b"1%032x\r\n" % 1), 400, INVALID),
    "a chunk that goes on": (post(CHUNKED, b"1\r\nab\r\n0\r\n\r\n"), 400, INVALID),
    "a length in a trailer": (
        post(CHUNKED, CHUNKS[:-2] + LENGTH + b"\r\n"),
        400,
        INVALID,
    ),
    # lines
    "a folded line": (post(b"x: a\r\n b\r\n" + LENGTH, BODY), 400, INVALID),
    "a folded coding": (
        post(b"transfer-encoding:\r\n chunked\r\n", CHUNKS),
        400,
        INVALID,
    ),
    "a space before the colon": (post(b"content-length : 3\r\n", BODY), 400, INVALID),
    "a tab before the colon": (post(b"content-length\t: 3\r\n", BODY), 400, INVALID),
    "a space before the name": (get(b"/v2", b" host: x\r\n"), 400, INVALID),
    "no colon": (post(b"content-length\r\n", BODY), 400, INVALID),
    "bare line feeds": (get(b"/v2").replace(b"\r", b""), 400, INVALID),
    "one bare line feed": (get(b"/v2", b"host: x\nx: y\r\n"), 400, INVALID),
    "a bare carriage return": (get(b"/v2", b"host: x\rx: y\r\n"), 400, INVALID),
    "line feeds in chunks": (post(CHUNKED, CHUNKS.replace(b"\r", b"")), 400, INVALID),
    "NUL in a value": (get(b"/v2", b"host: x\0y\r\n"), 400, INVALID),
    "NUL in a name": (get(b"/v2", HOST + b"x\0y: z\r\n"), 400, INVALID),
    "NUL in the path": (get(b"/v2\0"), 400, INVALID),
    # fields that proxies have rules about
    "no host": (get(b"/v2", b""), 400, "the request has no Host header"),
    "two hosts": (get(b"/v2", HOST + b"host: y\r\n"), 400, TWICE.format("Host")),
    "two authorizations": (
        get(b"/v2", HOST + b"authorization: a\r\nAuthorization: b\r\n"),
        400,
        TWICE.format("Authorization"),
    ),
    "two encodings": (
        post(2 * b"content-encoding: gzip\r\n" + LENGTH, BODY),
        400,
        TWICE.format("Content-Encoding"),
    ),
    "two lengths of the head": (
        post(2 * b"inference-header-content-length: 5\r\n" + LENGTH, BODY),
        400,
        TWICE.format("Inference-Header-Content-Length"),
    ),
    "the path of a proxy": (get(b"x:80").replace(b"GET", b"CONNECT"), 400, INVALID),
    "no slash": (get(b"v2/health/live"), 400, INVALID),
    "UTF-8": (get("/v2/models/é".encode()), 400, INVALID),
    # versions
    "HTTP/0.9": (b"GET /v2\r\n\r\n", 505, "found HTTP/0.9, expected HTTP/1.1"),
    "HTTP/2": (LIVE[:-5] + b"2.0\r\n\r\n", 505, "found HTTP/2.0, expected HTTP/1.1"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_ambiguous_request_ends_the_connection(host: Server, case: str) -> None:
    """An ambiguous request gets one error and ends its connection."""
    sent, status, text = REFUSED[case]
    answer = said(host, sent + LIVE + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert answer.count(b"\r\n\r\n") == 1  # one head, and so one answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"\r\nx-content-type-options: nosniff" in head
    assert json.loads(body) == {"error": text}


LAST = b"connection: close\r\n"
TAKEN = {
    "an absolute target": (get(b"http://other/v2/health/live", HOST + LAST), 200),
    "a name that means nothing here": (
        post(b"content_length: 3\r\ntransfer_encoding: x\r\n" + LENGTH + LAST, BODY),
        200,
    ),
    "many headers": (get(b"/v2", HOST + LAST + b"a: b\r\n" * 10_000), 200),
    "dots": (get(b"/v2/models/../health/live", HOST + LAST), 404),
    "encoded dots": (get(b"/v2/models/%2e%2e/ready", HOST + LAST), 404),
    "an encoded slash": (get(b"/v2%2Fhealth/live", HOST + LAST), 404),
    "an encoded slash of a model": (get(b"/v2/models/echo%2fready", HOST + LAST), 404),
    "an encoded backslash": (get(b"/v2%5cmodels", HOST + LAST), 404),
    "an encoded NUL": (get(b"/v2/models/echo%00", HOST + LAST), 404),
    "an encoded line end": (get(b"/v2/models/a%0d%0ab", HOST + LAST), 404),
    "an encoded letter": (get(b"/v2/models/%65cho/ready", HOST + LAST), 200),
    "two slashes": (get(b"//v2/health/live", HOST + LAST), 404),
    "half an escape": (get(b"/v2/models/%", HOST + LAST), 404),
    "an encoded slash in the query": (get(b"/v2?x=%2f", HOST + LAST), 200),
    "a header as a trailer": (
        post(CHUNKED + LAST, CHUNKS[:-2] + b"content-encoding: gzip\r\n\r\n"), 200
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN, ids=str)
def test_unambiguous_request_is_read_once(host: Server, case: str) -> None:
    """No path is rewritten, and no trailer or odd name becomes a header."""
    sent, status = TAKEN[case]
    answer = said(host, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert answer.count(b"\r\n\r\n") == 1  # one head, and so one answer


def test_nothing_is_answered_after_the_last_request(host: Server) -> None:
    """A request with `Connection: close` is answered, and nothing after it."""
    answer = said(host, get(b"/v2", HOST + LAST) + LIVE + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert answer.count(b"\r\n\r\n") == 1  # one head, and so one answer


def test_answer_headers_hide_the_server(host: Server) -> None:
    """Every answer forbids guessing its type, and none names the software."""
    for path in ("/v2", "/nowhere", "/metrics", "/v1/models"):
        headers = host.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "server" not in headers
        assert "x-powered-by" not in headers


# -- bodies that explode ------------------------------------------------------

LIMIT = 1 << 20


def bombs() -> dict[str, tuple[str, bytes]]:
    """Small bodies that are large when expanded, or slow to expand."""
    zeros = bytes(64 << 20)
    return {
        "one member": ("gzip", gzip.compress(zeros)),
        "many members": ("gzip", gzip.compress(bytes(LIMIT // 2)) * 3),
        "deflate": ("deflate", zlib.compress(zeros)),
    }


@pytest.mark.parametrize("case", ["one member", "many members", "deflate"])
def test_bomb_is_expanded_only_to_the_limit(case: str) -> None:
    """At most one byte over the limit is expanded, however much there is."""
    encoding, body = bombs()[case]
    with pytest.raises(PayloadTooLarge):
        compression.decompress(body, encoding, LIMIT)


def test_empty_members_are_counted() -> None:
    """Empty members expand to nothing but cost time, so their number is limited."""
    empty = gzip.compress(b"")
    assert compression.decompress(empty * 9999 + gzip.compress(b"x"), "gzip", 1) == b"x"
    began = time.thread_time()
    with pytest.raises(InvalidRequest, match="too many members"):
        compression.decompress(empty * 1_000_000, "gzip", LIMIT)
    assert time.thread_time() - began < 30  # hours, where each copies what follows it


def test_members_and_blocks_make_one_body() -> None:
    """Where a member ends within a block, the next one begins there."""
    parts = [os.urandom(n) for n in (1, 300_000, 0, 262_144, 5)]
    body = b"".join(map(gzip.compress, parts))
    assert compression.decompress(body, "gzip", LIMIT) == b"".join(parts)
    with pytest.raises(InvalidRequest, match="truncated"):
        compression.decompress(body[:-1], "gzip", LIMIT)


def most_bytes(server: Server) -> int:
    """Return the peak memory of the process."""
    with open(f"/proc/{server.process.pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def test_bomb_memory_is_limited(host: Server) -> None:
    """Both protocols refuse a bomb, and memory does not grow by its content."""
    size = 16 * BODY_BYTES
    before = most_bytes(host)
    bomb = zlib.compress(bytes(size), 1)
    headers = {"content-encoding": "deflate"}
    answer = host.post("/v2/models/echo/infer", content=bomb, headers=headers)
    assert (answer.status_code, "expands to more than" in answer.text) == (413, True)
    wire = message("ModelInferRequest")(
        model_name="echo", raw_input_contents=[bytes(size)]
    )
    wire.inputs.add(name="x", datatype="UINT8", shape=[size])
    unlimited = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(host.grpc_address, unlimited) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(
                wire.SerializeToString(),
                timeout=60,
                compression=grpc.Compression.Gzip,
            )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert most_bytes(host) - before < size // 2
