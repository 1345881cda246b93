"""Limits on clients: connections, sizes and time, on both protocols.

Over REST the client is a socket here, for no library is as slow as it has to be.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import grpc
import pytest
import uvicorn

from oip_host.config.configuration import read
from oip_host.config.settings import Settings
from oip_host.edge.grpc.messages import SERVICE, message
from oip_host.edge.transport.http import RESERVE
from oip_host.edge.transport.scope import ON_DISCONNECT
from oip_host.edge.transport.server import HttpServer, make_protocol
from oip_host.kserve.api import model_server
from support.process import Server, wait_for
from support.wire import ONE, request, tensor

Serve = Callable[..., Server]
Connect = Callable[[], "Client"]

OPTIONS = {
    name for action in model_server.parser._actions for name in action.option_strings
}
needs_keep_alive = pytest.mark.skipif(
    "--timeout-keep-alive" not in OPTIONS, reason="this kserve has no such option"
)
HEAD_BYTES = 4096
BODY_BYTES = 1 << 20
SMALL = ("--header_timeout_s=1", "--body_timeout_s=1")
LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = json.dumps(ONE).encode()
INFER = b"POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
LATE_HEAD = (
    "the head of the request was not complete within 1 s, which is header_timeout_s"
)
LATE_BODY = (
    "the body of the request was not complete within 1 s, which is body_timeout_s"
)
LARGE_HEAD = (
    f"the headers of the request are larger than {HEAD_BYTES} bytes, "
    "which is max_header_bytes"
)
FULL = "the server has {} connections, which is max_connections"


class Answer(NamedTuple):
    """A response to a client that reads it from its socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The text of the one form that every error has."""
        assert self.headers["content-type"] == "application/json"
        document = json.loads(self.body)
        assert list(document) == ["error"]
        return str(document["error"])


class Client:
    """A REST connection on which the test sends every byte itself."""

    def __init__(self, server: Server, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", server.http_port))
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, *parts: bytes) -> Client:
        for part in parts:
            self.socket.sendall(part)
        return self

    def trickle(self, part: bytes = b"x") -> Client:
        """Send a part repeatedly and slowly until the server answers."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not select.select([self.socket], [], [], 0.05)[0]:
            self.socket.sendall(part)
        return self

    def line(self) -> bytes:
        return self._file.readline().rstrip(b"\r\n")

    def answer(self) -> Answer:
        """Read the next response."""
        status = self.line().split(b" ")
        assert status[0] == b"HTTP/1.1", status
        lines = iter(self.line, b"")
        headers = dict(line.decode().lower().split(": ", 1) for line in lines)
        body = self._file.read(int(headers["content-length"]))
        return Answer(int(status[1]), headers, body)

    def rest(self) -> bytes:
        """Return the bytes that come until the server closes the connection.

        A reset counts as a close: the system reports one where the server did not read
        the last bytes sent.
        """
        try:
            return self._file.read()
        except ConnectionResetError:
            return b""

    def refusal(self, status: int) -> str:
        """The text of an error that ends the connection."""
        answer = self.answer()
        assert answer.status == status, answer
        assert answer.headers["connection"] == "close"
        assert self.rest() == b""
        return answer.error


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    """A server with one model, short time limits and small size limits."""
    arguments = (f"--max_header_bytes={HEAD_BYTES}", f"--max_body_bytes={BODY_BYTES}")
    with Server("--handlers=echo=fakes:Echo", *SMALL, *arguments) as server:
        yield server.wait_until_ready()
        assert "Traceback" not in server.log


@pytest.fixture
def clients(host: Server) -> Iterator[Connect]:
    """Connect to the server, and close the connection after the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Client(host))


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def gated(serve: Serve, gates: Path) -> Server:
    """A server whose model answers when the test allows it."""
    server = serve("--handlers=gated=fakes:Gated", *SMALL, env={"GATE_DIR": str(gates)})
    return server.wait_until_ready()


def held(name: str) -> bytes:
    """An inference that waits at the gate of this name."""
    body = json.dumps(request([name], [1], "BYTES")).encode()
    length = b"content-length: %d\r\n\r\n" % len(body)
    return INFER.replace(b"echo", b"gated") + length + body


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--max_header_bytes=1023", "expected greater than or equal to 1024"),
        ("--max_connections=0", "expected greater than or equal to 1"),
        ("--header_timeout_s=0", "expected greater than 0"),
        ("--header_timeout_s=inf", "expected a finite number"),
        ("--body_timeout_s=0", "expected greater than 0"),
        ("--body_timeout_s=inf", "expected a finite number"),
    ],
)
def test_invalid_limits_are_refused(argument: str, expected: str) -> None:
    """A limit has to be a number that lets some request through."""
    name, _, value = argument.partition("=")
    assert read([argument], {})[1] == [f"{name}: found {value!r}, {expected}"]


# -- time ---------------------------------------------------------------------


def test_late_head_is_refused(clients: Connect) -> None:
    """A head that is not complete in time gets a 408, and the connection ends.

    Byte by byte it gets no more time, neither the first nor a later one.
    """
    cases = {
        "nothing": (b"", b""),
        "empty lines": (b"", b"\r\n"),
        "a letter": (b"G", b""),
        "no end": (INFER, b""),
        "half an end": (LIVE[:-2], b""),
        "bytes": (INFER + b"x: ", b"x"),
        "headers": (INFER, b"x: y\r\n"),
        "a later one": (LIVE + INFER + b"x: ", b"x"),
    }

    def refusal(start: bytes, part: bytes) -> str:
        client = clients().send(start)
        if start.startswith(LIVE):
            assert client.answer().status == 200
        return client.trickle(part).refusal(408)

    assert in_time(refusal, cases) == dict.fromkeys(cases, LATE_HEAD)


def test_late_body_is_refused(clients: Connect) -> None:
    """A body that is not complete in time gets a 408, and the connection ends."""
    cases = {
        "nothing": (LENGTH + b"\r\n", b""),
        "bytes": (b"content-length: 100000\r\n\r\n", b" "),
        "no chunk": (CHUNKED + b"\r\n", b""),
        "chunks": (CHUNKED + b"\r\n", b"1\r\n \r\n"),
        "extensions": (CHUNKED + b"\r\n1", b";x"),
        "trailers": (CHUNKED + b"\r\n0\r\n", b"x: y\r\n"),
    }

    def refusal(start: bytes, part: bytes) -> str:
        return clients().send(INFER + start).trickle(part).refusal(408)

    assert in_time(refusal, cases) == dict.fromkeys(cases, LATE_BODY)


def in_time(refusal: Callable[..., str], cases: dict[str, Any]) -> dict[str, str]:
    """Return each case's refusal; all cases run at once, for about a second."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(cases)) as pool:
        refusals = list(pool.map(lambda case: refusal(*case), cases.values()))
    assert 0.7 < time.monotonic() - began
    return dict(zip(cases, refusals, strict=True))


def test_body_after_100_continue_has_the_same_time(
    clients: Connect,
) -> None:
    """A body after `100 Continue` has the same time limit, and is accepted in time."""
    head = INFER + LENGTH + b"expect: 100-continue\r\n\r\n"
    prompt, late = clients().send(head), clients().send(head)
    for client in (prompt, late):
        assert (client.line(), client.line()) == (b"HTTP/1.1 100 Continue", b"")
    assert prompt.send(BODY).answer().status == 200
    assert late.refusal(408) == LATE_BODY


def test_early_answer_closes_connection_without_408(
    clients: Connect,
) -> None:
    """After an early answer no 408 follows, even where the body never comes."""
    client = clients().send(INFER.replace(b"echo", b"nobody") + LENGTH + b"\r\n")
    assert client.answer().status == 404
    assert client.rest() == b""


def test_slow_clients_do_not_hold_up_others(host: Server, clients: Connect) -> None:
    """Slow requests get a 408, and all others are answered meanwhile."""
    slow = 40
    silent = [clients().send(INFER + LENGTH + b"\r\n{") for _ in range(slow)]
    silent += [clients().send(LIVE[:20]) for _ in range(slow)]
    statuses: Counter[int] = Counter()

    def ask(_: int) -> int:
        return host.post("/v2/models/echo/infer", json=ONE).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses.update(pool.map(ask, range(100)))
    assert statuses == {200: 100}
    refusals = Counter(client.refusal(408) for client in silent)
    assert refusals == {LATE_BODY: slow, LATE_HEAD: slow}
    wait_for(lambda: f" refused: 408 {LATE_BODY}" in host.log, "a line of the log")


def test_handler_time_does_not_count_as_sending_time(
    gated: Server, gates: Path
) -> None:
    """The time of a handler counts neither for its request nor for the next one.

    A request runs for longer than a head and a body may take, while a part of the next
    one has already come. The rest of it comes after the first answer.
    """
    with Client(gated) as client:
        client.send(held("a"), LIVE[:20])
        wait_for((gates / "a.started").exists, "the call")
        wait_for_a_late_head(gated)
        (gates / "a.open").touch()
        assert client.answer().status == 200
        client.send(LIVE[20:])
        assert client.answer().body == b'{"live":true}'


def wait_for_a_late_head(server: Server) -> None:
    """Wait for the time limit of a head: any head begun before is late by then."""
    with Client(server) as client:
        assert client.refusal(408) == LATE_HEAD


def test_pipelined_requests_are_answered_in_order(gated: Server, gates: Path) -> None:
    """Pipelined requests are answered in order; waiting costs them no time."""
    with Client(gated) as client:
        client.send(held("a") + LIVE + held("b") + LIVE)
        wait_for((gates / "a.started").exists, "the call")
        wait_for_a_late_head(gated)
        (gates / "a.open").touch()
        assert client.answer().status == 200
        assert client.answer().body == b'{"live":true}'
        wait_for((gates / "b.started").exists, "the call")
        wait_for_a_late_head(gated)
        (gates / "b.open").touch()
        assert client.answer().status == 200
        assert client.answer().body == b'{"live":true}'


@needs_keep_alive
@pytest.mark.parametrize("stray", [b"", b"\r\n"], ids=["nothing", "an empty line"])
def test_idle_connection_is_closed_silently(serve: Serve, stray: bytes) -> None:
    """An idle connection has KServe's keep-alive time and ends without a 408."""
    server = serve("--handlers=echo=fakes:Echo", "--timeout-keep-alive=1")
    with Client(server) as client:
        assert client.send(LIVE).answer().status == 200
        assert client.send(stray).rest() == b""


def test_client_that_does_not_read_is_disconnected(serve: Serve) -> None:
    """An answer that nobody reads holds its connection only for a while."""
    server = serve(
        "--handlers=echo=fakes:Echo",
        *("--max_connections=1", "--body_timeout_s=4"),
    )
    data = bytes(32 << 20)
    parameters = {"binary_data_size": len(data)}
    x = {"name": "x", "datatype": "UINT8", "shape": [len(data)]}
    document = {
        "inputs": [{**x, "parameters": parameters}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(document).encode()
    fields = b"inference-header-content-length: %d\r\ncontent-length: %d\r\n"
    end = b"connection: close\r\n\r\n"
    with Client(server, receive_buffer=4096) as client:
        wait_for(lambda: server.get("/v2/health/ready").is_success, "readiness")
        lengths = len(head), len(head) + len(data)
        client.send(INFER + fields % lengths + end, head, data)
        assert client.line() == b"HTTP/1.1 200 OK"
        assert server.get("/v2/models").status_code == 503
        wait_for(lambda: server.get("/v2/models").status_code == 200, "a free place")


# -- size ---------------------------------------------------------------------


def padded(size: int) -> list[bytes]:
    """Return a head of the given size, in the parts in which it is sent."""
    pad = b"p" * (size - len(LIVE) - len(b"pad: \r\n"))
    return [LIVE[:-2], b"pad: ", pad, b"\r\n", b"\r\n"]


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in parts"])
def test_a_head_may_have_its_whole_size(clients: Connect, at_once: bool) -> None:
    """A head of exactly `max_header_bytes` is taken; one byte more is 431."""
    for size in (HEAD_BYTES, HEAD_BYTES + 1):
        client = clients()
        for part in [b"".join(padded(size))] if at_once else padded(size):
            client.send(part)
        if size == HEAD_BYTES:
            assert client.answer().status == 200
            assert client.send(LIVE).answer().status == 200
        else:
            assert client.refusal(431) == LARGE_HEAD


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (LIVE[:-2] + b"x: ", b"y" * 900),
        (LIVE[:-2], b"x: y\r\n" * 150),
        (b"GET /", b"v2/" * 300),
        (b"", b"\r\n" * 450),
        (INFER + CHUNKED + b"\r\n1\r\n{\r\n0\r\n", b"x: y\r\n" * 150),
        (INFER + CHUNKED + b"\r\n1", b";x=y" * 225),
    ],
    ids=["value", "headers", "path", "empty lines", "trailers", "extensions"],
)
def test_endless_head_is_refused(
    host: Server, clients: Connect, start: bytes, part: bytes
) -> None:
    """Everything before a body is bounded, even where each single read is small."""
    assert clients().send(start).trickle(part).refusal(431) == LARGE_HEAD
    assert host.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("sent", ["at once", "in two", "without its body"])
def test_sender_of_a_large_head_gets_the_refusal(clients: Connect, sent: str) -> None:
    """The refusal reaches a client that goes on sending, and no request is run."""
    x = b"x: " + b"y" * HEAD_BYTES + b"\r\n\r\n"
    expect = b"expect: 100-continue\r\n" if sent == "without its body" else b""
    head, body = INFER + b"content-length: 500000\r\n" + expect + x, b" " * 500000
    client = clients()
    if sent == "at once":
        client.send(head + body)
    elif sent == "in two":
        client.send(head, body)
    else:
        client.send(head)
    assert client.refusal(431) == LARGE_HEAD


def test_chunks_do_not_count_as_headers(clients: Connect) -> None:
    """A body in one large chunk, in small chunks or with trailers is accepted."""
    padding = BODY + b" " * 4 * HEAD_BYTES
    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(padding), padding)
    small = b"".join(b"1\r\n%c\r\n" % byte for byte in padding) + b"0\r\nx: y\r\n\r\n"
    client = clients()
    for chunks in (whole, small, whole):
        client.send(INFER + CHUNKED + b"\r\n", chunks[:5000], chunks[5000:])
        assert client.answer().status == 200


# -- connections --------------------------------------------------------------


@pytest.fixture
def full(serve: Serve) -> Iterator[tuple[Server, list[Client]]]:
    """A server of three connections, all of them taken by clients."""
    server = serve("--handlers=echo=fakes:Echo", "--max_connections=3")
    server.wait_until_ready()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(3)]
        for client in clients:
            assert client.send(LIVE).answer().status == 200
        yield server, clients
        assert "Traceback" not in server.log


def test_one_connection_too_many_is_refused(full: tuple[Server, list[Client]]) -> None:
    """A connection over the limit gets a 503 with Retry-After; the others go on."""
    server, clients = full
    body = b"content-length: 500000\r\n\r\n" + b" " * 500000
    for asked in (b"GET /v2/models HTTP/1.1\r\nhost: x\r\n\r\n", INFER + body):
        with Client(server) as client:
            answer = client.send(asked).answer()
            assert (answer.status, answer.error) == (503, FULL.format(3))
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["connection"] == "close"
            assert client.rest() == b""
    for client in clients:
        client.send(INFER + LENGTH + b"\r\n" + BODY)
        assert client.answer().status == 200


@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v2/models/echo/ready", "/metrics"]
)
def test_probes_work_on_a_full_server(
    full: tuple[Server, list[Client]], path: str
) -> None:
    """Health can be read while clients hold all connections."""
    server, _ = full
    with Client(server) as client:
        client.send(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path.encode())
        assert client.answer().status == 200
        assert client.rest() == b""


def test_freed_connection_is_reused(full: tuple[Server, list[Client]]) -> None:
    """When a client leaves, the next may stay, even if it came while all were taken."""
    server, clients = full
    with Client(server) as early:
        clients.pop().close()

        def taken() -> bool:
            with Client(server) as late:
                return late.send(INFER + LENGTH + b"\r\n" + BODY).answer().status == 503

        wait_for(taken, "taking the place")
        for _ in range(2):
            assert early.send(LIVE).answer().status == 200


def test_silent_connections_over_the_limit_are_refused(
    full: tuple[Server, list[Client]],
) -> None:
    """Silent connections get a 503 too: soon, or at once beyond a reserve."""
    server, _ = full
    with ExitStack() as stack:
        extra = [stack.enter_context(Client(server)) for _ in range(RESERVE + 5)]
        assert Counter(client.refusal(503) for client in extra) == {
            FULL.format(3): RESERVE + 5
        }
        assert server.get("/v2/health/live").status_code == 200


# -- other protocols ----------------------------------------------------------

UPGRADE = (
    b"connection: upgrade, http2-settings\r\nhttp2-settings: AA\r\nupgrade: %b\r\n"
)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"], ids=str)
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (LENGTH, BODY),
        (CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("cut", [0, 10, -1], ids=["apart", "begun", "all but one"])
def test_upgrade_request_is_answered_in_http_1(
    clients: Connect,
    protocol: bytes,
    framing: bytes,
    body: bytes,
    cut: int,
) -> None:
    """An upgrade is ignored, as HTTP allows, and the body is still read."""
    client = clients()
    for _ in range(2):
        client.send(INFER + UPGRADE % protocol + framing + b"\r\n" + body[:cut])
        answer = client.send(body[cut:]).answer()
        assert (answer.status, json.loads(answer.body)["outputs"][0]["data"]) == (
            200,
            [1.0],
        )
    client.send(LIVE[:-2] + UPGRADE % protocol + b"\r\n")
    assert client.answer().body == b'{"live":true}'
    assert client.send(LIVE).answer().body == b'{"live":true}'


def test_a_body_after_an_upgrade_has_its_limits(clients: Connect) -> None:
    """It has to come in time, in valid chunks, and not exceed its stated length."""
    head = INFER + UPGRADE % b"h2c"
    assert clients().send(head + LENGTH + b"\r\n").refusal(408) == LATE_BODY
    wrong = clients().send(head + CHUNKED + b"\r\nzz\r\n")
    assert wrong.refusal(400) == "not a valid HTTP/1.1 request"
    again = head + LENGTH + b"\r\n" + BODY
    assert clients().send(again + again).answer().status == 200


@pytest.mark.parametrize("method", [b"GET", b"HEAD"], ids=str)
def test_unexpected_body_is_skipped(clients: Connect, method: bytes) -> None:
    """A GET or HEAD with a body is answered, and so is the next request."""
    client = clients()
    client.send(method + LIVE[3:-2] + LENGTH + b"\r\n", BODY)
    assert client.line() == b"HTTP/1.1 200 OK"
    while client.line():
        pass
    rest = client.send(LIVE[:-2] + b"connection: close\r\n\r\n").rest()
    assert rest.count(b"HTTP/1.1 200 OK") == 1
    assert rest.count(b'{"live":true}') == (2 if method == b"GET" else 1)


# -- clients that leave -------------------------------------------------------


async def until(condition: Callable[[], Any]) -> None:
    """Wait on the loop for a condition."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 30 s")


@pytest.mark.parametrize("path", [b"/answers", b"/waits"], ids=str)
async def test_application_learns_that_its_client_left(path: bytes) -> None:
    """The callback in the scope is called once, unless the answer was complete."""
    left: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        scope[ON_DISCONNECT] = lambda: left.append(scope["path"])
        if scope["path"] == "/waits":
            await receive()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    http: Any = make_protocol(Settings())
    server = HttpServer(
        uvicorn.Config(
            application, http=http, ws="none", lifespan="off", log_config=None
        )
    )
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.wait_until_listening()
    _, port = listener.getsockname()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path)
    if path == b"/answers":
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    else:
        await until(lambda: server.server_state.tasks)
    writer.close()
    await until(lambda: not server.server_state.connections)
    assert left == (["/waits"] if path == b"/waits" else [])
    server.should_exit = True
    await serving


# -- gRPC ---------------------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What a client of HTTP/2 says first, with empty settings."""


def raw(size: int) -> Any:
    """A request with one input of the given number of bytes."""
    wire = message("ModelInferRequest")(
        model_name="echo", raw_input_contents=[bytes(size)]
    )
    wire.inputs.add(name="x", datatype="UINT8", shape=[size])
    return wire


def infer_raw(server: Server, size: int, **options: Any) -> str:
    """Return the status of an inference of so many bytes, from an unlimited client."""
    unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    with grpc.insecure_channel(server.grpc_address, unlimited) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        try:
            call(
                raw(size).SerializeToString(),
                timeout=30,
                wait_for_ready=True,
                **options,
            )
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.mark.parametrize(
    "compression", [None, grpc.Compression.Gzip], ids=["plain", "gzip"]
)
def test_grpc_messages_have_the_limit_of_a_body(host: Server, compression: Any) -> None:
    """gRPC accepts as much as REST and no more, also after decompression."""
    fits, too_large = BODY_BYTES - 100, BODY_BYTES
    assert infer_raw(host, fits, compression=compression) == "OK"
    status = infer_raw(host, too_large, compression=compression)
    assert status == "RESOURCE_EXHAUSTED"


def test_large_body_passes_on_both_protocols(serve: Serve) -> None:
    """A body over KServe's default limits and under the host's is accepted."""
    server = serve("--handlers=echo=fakes:Echo").wait_until_ready()
    size = 10_000_000
    assert infer_raw(server, size) == "OK"
    body = {"inputs": [tensor(["x" * size], [1], "BYTES")]}
    assert server.post("/v2/models/echo/infer", json=body).status_code == 200


@pytest.mark.parametrize(
    ("argument", "fits", "too_large"),
    [
        ("--grpc_max_receive_message_length=2000000", 1_900_000, 2_000_000),
        ("--grpc_max_receive_message_length=8388608", 8_000_000, 8_388_608),
        ("--grpc_max_send_message_length=1000", 900, 1000),
    ],
    ids=["request", "its default", "answer"],
)
def test_kserve_arguments_take_precedence(
    serve: Serve, argument: str, fits: int, too_large: int
) -> None:
    """A given gRPC limit holds, even where it equals KServe's own default."""
    server = serve("--handlers=echo=fakes:Echo", "--max_body_bytes=1000000", argument)
    server.wait_until_ready()
    assert infer_raw(server, fits) == "OK"
    assert infer_raw(server, too_large) == "RESOURCE_EXHAUSTED"


def test_metadata_have_the_limit_of_a_head(host: Server) -> None:
    """Metadata over `max_header_bytes` are always refused, never only sometimes."""

    def ask(size: int) -> str:
        return infer_raw(host, 1, metadata=[("x", "y" * size)])

    assert {ask(HEAD_BYTES // 2) for _ in range(5)} == {"OK"}
    assert {ask(HEAD_BYTES + 100) for _ in range(5)} == {"RESOURCE_EXHAUSTED"}


def connected(server: Server) -> grpc.Channel:
    """A client with a separate connection."""
    return grpc.insecure_channel(
        server.grpc_address, [("grpc.use_local_subchannel_pool", 1)]
    )


def live(channel: grpc.Channel) -> str:
    try:
        channel.unary_unary(f"/{SERVICE}/ServerLive")(b"", timeout=30)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_grpc_has_the_same_connection_limit(serve: Serve) -> None:
    """gRPC too refuses a connection over the limit, until another client leaves."""
    server = serve("--handlers=echo=fakes:Echo", "--max_connections=1")
    with connected(server) as other:
        with connected(server) as first:
            assert live(first) == "OK"
            assert live(other) == "UNAVAILABLE"
            assert live(first) == "OK"
        wait_for(lambda: live(other) == "OK", "a place")


def test_calls_beyond_the_limit_of_a_connection_wait(serve: Serve, gates: Path) -> None:
    """A client sends no more calls at once than `max_connections`, and loses none."""
    server = serve(
        *("--handlers=gated=fakes:Gated", "--max_connections=2"),
        "--models.gated.max_concurrency=10",
        env={"GATE_DIR": str(gates)},
    ).wait_until_ready()
    with connected(server) as channel, ThreadPoolExecutor(3) as pool:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            response_deserializer=message("ModelInferResponse").FromString,
        )

        def ask(name: str) -> int:
            wire = message("ModelInferRequest")(model_name="gated")
            x = wire.inputs.add(name="x", datatype="BYTES", shape=[1])
            x.contents.bytes_contents.append(name.encode())
            answer = call(wire.SerializeToString(), timeout=60)
            return int(answer.parameters["most"].int64_param)

        names = ("a", "b", "c")
        answers = [pool.submit(ask, name) for name in names]

        def started() -> int:
            return sum((gates / f"{name}.started").exists() for name in names)

        wait_for(lambda: started() == 2, "two calls")
        for name in names:
            (gates / f"{name}.open").touch()
        assert [answer.result() for answer in answers][-1] == 2


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE[:24]], ids=len)
def test_connection_without_grpc_ends(host: Server, said: bytes) -> None:
    """A client that does not begin HTTP/2 has only as much time as for a head."""
    with socket.create_connection(("127.0.0.1", host.grpc_port), timeout=30) as client:
        client.sendall(said)
        while client.recv(4096):
            pass


@needs_keep_alive
def test_client_of_an_idle_grpc_connection_goes_on(serve: Serve) -> None:
    """An idle connection stays open as long as in REST; the next call succeeds."""
    server = serve("--handlers=echo=fakes:Echo", "--timeout-keep-alive=1")
    with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=30) as idle:
        idle.sendall(PREFACE)
        while idle.recv(4096):
            pass
    states: list[grpc.ChannelConnectivity] = []
    with connected(server) as channel:
        channel.subscribe(states.append)
        assert live(channel) == "OK"
        was, now = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE
        wait_for(lambda: was in states and states[-1] is now, "the end")
        assert live(channel) == "OK"
