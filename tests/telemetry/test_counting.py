"""Each request is counted once: with its model and outcome, or as refused.

Every test compares all series of requests, so that it also finds a request that is
counted twice or with another model.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from oip_host.edge.grpc.messages import SERVICE, message
from support.control import change
from support.fakes.held import Gate
from support.load import Clients, leave, numbered, rest_request, until, wire
from support.process import DEADLINE_S, Server, wait_for
from support.scrapes import Series, risen, scrape, series
from support.wire import ONE, infer_grpc, infer_rest, request, rpc

Ask = Callable[[Server, str], Any]
Shut = Callable[[str], Gate]

REQUESTS, REFUSED = "oip_requests_total", "oip_refused_requests_total"
BYTES = "oip_request_bytes_total", "oip_response_bytes_total"
LIMIT = 5000
WAYS = ("rest", "grpc", "v1")
KINDS = {
    "thread": "fakes.held:Held",
    "loop": "fakes.held:HeldAsync",
    "batch": "fakes.held:Held",
}
"""The ways in which a model runs its calls, with one call at a time."""
JSON = {"content-type": "application/json"}

by_way = pytest.mark.parametrize("way", WAYS)
by_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("load")


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[Server]:
    models = [
        "echo=fakes:Echo",
        "pair=fakes:Two",
        "raises=fakes:Raises",
        "kserve=fakes:KServeDouble",
        "undescribed=fakes:NoMetadata",
        "gone=fakes:Echo",
        "failed=fakes:LoadFalse?",
        "full=fakes.held:Held",
        "late=fakes.held:Held",
        "left=fakes.held:HeldAsync",
        "reloaded=fakes:Echo",
        *(f"{kind}={handler}" for kind, handler in KINDS.items()),
    ]
    with Server(
        f"--handlers={','.join(models)}",
        "--model_control=explicit",
        f"--max_body_bytes={LIMIT}",
        "--body_timeout_s=0.5",
        "--models.pair.check_metadata=true",
        "--models.full.max_queue=1",
        "--models.late.timeout_s=0.2",
        "--models.loop.max_concurrency=1",
        "--models.batch.max_batch_size=2",
        env={"LOAD_DIR": str(directory)},
    ) as server:
        server.wait_until_ready()
        change(server, "rest", "unload", "gone")
        yield server


@pytest.fixture
def shut(directory: Path) -> Iterator[Shut]:
    """Hold the calls of a model, at most until the end of the test."""
    gates = []

    def made(model: str) -> Gate:
        gate = Gate(directory, model)
        gate.shut()
        gates.append(gate)
        return gate

    yield made
    for gate in gates:
        gate.open()


def metric(server: Server, name: str, model: str) -> float:
    """Return the only sample of a model."""
    return series(scrape(server), name)[name, model, "1"]


def scraped(server: Server, *names: str) -> Series:
    """Return the counts of requests and the samples with these names."""
    return series(scrape(server), REQUESTS, REFUSED, *names)


def v1(server: Server, model: str, document: Any = None) -> Any:
    """Send a request by V1."""
    asked = {"instances": [[1, 2]]} if document is None else document
    return server.post(f"/v1/models/{model}:predict", json=asked)


def ask(way: str, server: Server, model: str) -> Any:
    """Send the smallest request."""
    if way == "v1":
        return v1(server, model)
    return (infer_rest if way == "rest" else infer_grpc)(server, model, ONE)


def of(model: str, outcome: str, way: str, times: int = 1) -> Series:
    """Return the change of the counts that such requests make."""
    return {(REQUESTS, model, "1", outcome, way): times}


def refused(way: str, reason: str) -> Series:
    """Return the change of the counts that one refused request makes."""
    return {(REFUSED, way, reason): 1}


# -- outcomes -----------------------------------------------------------------


@by_way
@pytest.mark.parametrize(
    ("model", "outcome"),
    [
        ("echo", "ok"),
        ("kserve", "ok"),
        ("pair", "InvalidRequest"),
        ("raises", "HandlerFault"),
        ("gone", "ModelNotReady"),
        ("failed", "ModelNotReady"),
    ],
)
def test_an_inference_is_counted_once(
    host: Server, way: str, model: str, outcome: str
) -> None:
    """An inference changes one count only: of its model, protocol and outcome."""
    before = scraped(host)
    if model == "kserve" and way == "v1":
        v1(host, model, {"instances": [1]})
    else:
        ask(way, host, model)
    assert of(model, outcome, way) == risen(before, scraped(host))


@by_way
def test_request_for_unknown_model_is_a_refusal(host: Server, way: str) -> None:
    """The model name in a request makes no new series."""
    before = scraped(host)
    ask(way, host, "nobody")
    assert refused(way, "ModelNotFound") == risen(before, scraped(host))
    assert "nobody" not in scrape(host)


@by_way
async def test_requests_refused_by_a_full_queue_are_counted(
    host: Server, shut: Shut, way: str
) -> None:
    """Each refusal counts as `Overloaded`; the accepted requests are `ok` later."""
    gate = shut("full")
    before = scraped(host)
    async with Clients(host) as clients:
        sent = clients.send(way, "full", *numbered("full", 3))
        await until(lambda: any(one.done() for one in sent), "a refusal")
        full = of("full", "Overloaded", way)
        assert full == risen(before, scraped(host))
        gate.open()
        await asyncio.gather(*sent)
    assert {**full, **of("full", "ok", way, 2)} == risen(before, scraped(host))


@by_way
async def test_expired_deadline_is_counted(host: Server, shut: Shut, way: str) -> None:
    """A request that exceeds the host's limit counts as `DeadlineExceeded`."""
    gate = shut("late")
    before = scraped(host)
    async with Clients(host) as clients:
        (sent,) = clients.send(way, "late", "late")
        assert not (await sent).answered
    gate.open()
    assert of("late", "DeadlineExceeded", way) == risen(before, scraped(host))


@pytest.mark.parametrize("way", [*WAYS, "reset"])
async def test_request_of_a_gone_client_is_counted(
    host: Server, shut: Shut, way: str
) -> None:
    """A request whose client leaves counts as `Cancelled` and frees its place."""
    gate = shut("left")
    before = scraped(host)
    counted = of("left", "Cancelled", "rest" if way == "reset" else way)
    async with Clients(host) as clients:
        (sent,) = clients.send(way, "left", f"left-{way}")
        await until(lambda: f"left-{way}" in gate.ran, "a call")
        assert {} == risen(before, scraped(host))
        await leave([sent])
        await until(lambda: risen(before, scraped(host)), "a count")
    assert counted == risen(before, scraped(host))
    in_flight = "oip_requests_in_flight"
    wait_for(lambda: not metric(host, in_flight, "left"), "a free place")


# -- bodies that cannot be read, and refusals ---------------------------------


def post(path: str, content: bytes, **headers: str) -> Ask:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda server, model: server.post(
        path.format(model), content=content, headers={**JSON, **names}
    )


V2, V1 = "/v2/models/{}/infer", "/v1/models/{}:predict"
BOMB = gzip.compress(b" " * 2 * LIMIT)


@pytest.mark.parametrize(("path", "way"), [(V2, "rest"), (V1, "v1")])
@pytest.mark.parametrize(
    ("content", "headers", "outcome"),
    [
        pytest.param(b"{", {}, "InvalidRequest", id="no JSON"),
        pytest.param(b"[1]", {}, "InvalidRequest", id="no object"),
        pytest.param(b" " * (LIMIT + 1), {}, "PayloadTooLarge", id="too large"),
        pytest.param(
            BOMB, {"content_encoding": "gzip"}, "PayloadTooLarge", id="a bomb"
        ),
        pytest.param(
            b"x", {"content_encoding": "gzip"}, "InvalidRequest", id="no gzip"
        ),
        pytest.param(
            b"x", {"content_encoding": "br"}, "UnsupportedEncoding", id="encoding"
        ),
    ],
)
def test_unreadable_body_counts_for_the_model(
    host: Server, path: str, way: str, content: bytes, headers: Any, outcome: str
) -> None:
    """The path names the model, also where KServe's own code finds the fault."""
    before = scraped(host)
    post(path, content, **headers)(host, "echo")
    assert of("echo", outcome, way) == risen(before, scraped(host))


def raw(data: bytes) -> Ask:
    """Return a function that sends these bytes and reads the whole answer."""

    def send(server: Server, model: str) -> None:
        address = ("127.0.0.1", server.http_port)
        with socket.create_connection(address, timeout=DEADLINE_S) as connection:
            connection.sendall(data)
            while connection.recv(1 << 16):
                pass

    return send


def garbage(server: Server, model: str) -> None:
    """Send bytes by gRPC that are no message."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError):
            call(b"\xff\xff\xff", wait_for_ready=True)


def unknown_metadata(server: Server, model: str) -> None:
    with suppress(grpc.RpcError):
        rpc(server, "ModelMetadata", message("ModelMetadataRequest")(name="nobody"))


HALF = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"
LARGE = b"GET /v2 HTTP/1.1\r\nhost: x\r\nx: %b\r\n\r\n" % (b"y" * 40000)
LARGE_INFER = LARGE.replace(b"GET /v2 ", b"POST /v2/models/echo/infer ")


@pytest.mark.parametrize(
    ("send", "way", "reason"),
    [
        pytest.param(lambda s, m: s.get(V2.format(m)), "rest", "MethodNotAllowed",
                     id="method"),
        pytest.param(lambda s, m: s.post("/v2"), "rest", "MethodNotAllowed",
                     id="method of the server"),
        pytest.param(lambda s, m: s.get("/v2/nowhere"), "rest", "NotFound", id="path"),
        pytest.param(lambda s, m: s.get("/nowhere"), "v1", "NotFound", id="V1 path"),
        pytest.param(lambda s, m: s.post("/v1/models"), "v1", "MethodNotAllowed",
                     id="V1 method"),
        pytest.param(lambda s, m: s.get("/v2/models/nobody"), "rest", "ModelNotFound",
                     id="metadata"),
        pytest.param(unknown_metadata, "grpc", "ModelNotFound", id="gRPC metadata"),
        pytest.param(lambda s, m: s.get("/v2/models/failed"), "rest", "ModelNotReady",
                     id="metadata of one that is not ready"),
        pytest.param(raw(b"NONSENSE\r\n\r\n"), "rest", "BAD_REQUEST", id="no HTTP"),
        pytest.param(raw(LARGE), "rest", "REQUEST_HEADER_FIELDS_TOO_LARGE",
                     id="large head"),
        pytest.param(raw(LARGE_INFER), "rest", "REQUEST_HEADER_FIELDS_TOO_LARGE",
                     id="large head of an inference"),
        pytest.param(raw(HALF % b"/v2/models/echo/infer"), "rest", "REQUEST_TIMEOUT",
                     id="late body"),
        pytest.param(raw(HALF % b"/v1/models/echo:predict"), "rest", "REQUEST_TIMEOUT",
                     id="late V1 body"),
        pytest.param(garbage, "grpc", "InvalidRequest", id="no message"),
    ],
)  # fmt: skip
def test_request_that_reaches_no_model_is_a_refusal(
    host: Server, send: Ask, way: str, reason: str
) -> None:
    """A refusal is counted once, by its reason, and for no model."""
    before = scraped(host)
    send(host, "echo")
    assert refused(way, reason) == risen(before, scraped(host))


@pytest.mark.parametrize("path", ["/v2/models/echo/infer", "/v1/models/echo:predict"])
def test_half_a_request_is_not_counted(host: Server, path: str) -> None:
    """A request whose client leaves within the body is not counted."""
    before = scraped(host, "process_open_fds")
    address = ("127.0.0.1", host.http_port)
    with socket.create_connection(address, timeout=DEADLINE_S) as connection:
        connection.sendall(HALF % path.encode())
        wait_for(lambda: risen(before, scraped(host, "process_open_fds")), "a socket")
    wait_for(lambda: {} == risen(before, scraped(host, "process_open_fds")), "its end")


@pytest.mark.parametrize("model", ["gone", "failed"])
def test_negative_readiness_is_no_refusal(host: Server, model: str) -> None:
    """A probe that gets "not ready" counts as no refusal, by any protocol."""
    before = scraped(host)
    assert 503 == host.get(f"/v2/models/{model}/ready").status_code
    assert 503 == host.get(f"/v1/models/{model}").status_code
    assert not rpc(host, "ModelReady", message("ModelReadyRequest")(name=model)).ready
    assert {} == risen(before, scraped(host))


def test_only_inferences_are_counted(host: Server) -> None:
    """Health, metadata, statistics and metrics are neither requests nor refusals."""
    before = scraped(host)
    for path in ("/v2", "/v2/health/live", "/v2/models", "/v2/models/echo",
                 "/v2/models/echo/stats", "/metrics", "/v1/models"):  # fmt: skip
        assert 200 == host.get(path).status_code
    assert rpc(host, "ServerMetadata").name
    assert {} == risen(before, scraped(host))


# -- sizes and times ----------------------------------------------------------


def sizes(host: Server, before: Series, model: str) -> list[float]:
    """Return the bytes received and sent."""
    changes = risen(before, scraped(host, *BYTES))
    assert {key[1] for key in changes} == {model}
    return [changes.get((name, model, "1"), 0) for name in BYTES]


@pytest.mark.parametrize("path", [V2, V1])
@pytest.mark.parametrize("compressed", [False, True])
def test_bytes_are_the_size_of_the_bodies(
    host: Server, path: str, compressed: bool
) -> None:
    """By REST and V1 the bytes are those of the bodies before compression."""
    data = [float(n) for n in range(600)]
    whole: Any = {"instances": [data]} if path == V1 else request(data, [600])
    body = json.dumps(whole).encode()
    sent = gzip.compress(body) if compressed else body
    headers = {"accept-encoding": "gzip" if compressed else "identity"}
    if compressed:
        headers["content-encoding"] = "gzip"
    before = scraped(host, *BYTES)
    answer = host.post(path.format("echo"), content=sent, headers={**JSON, **headers})
    assert 200 == answer.status_code
    assert ("content-encoding" in answer.headers) is (compressed and path == V2)
    assert [len(body), len(answer.content)] == sizes(host, before, "echo")


def test_grpc_bytes_are_the_size_of_the_messages(host: Server) -> None:
    """By gRPC the bytes are those of the request and response messages."""
    body = wire("full", "element")
    before = scraped(host, *BYTES)
    with grpc.insecure_channel(host.grpc_address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        answer = call(body, wait_for_ready=True)
    assert [len(body), len(answer)] == sizes(host, before, "full")


@by_way
def test_error_adds_no_response_bytes(host: Server, way: str) -> None:
    """A failed request adds the bytes that were read, and no response bytes."""
    before = scraped(host, *BYTES)
    ask(way, host, "raises")
    came, went = sizes(host, before, "raises")
    assert came > 0
    assert 0 == went


TIMES = ("oip_request_seconds", "oip_queue_seconds", "oip_handler_seconds")
COUNTS = tuple(f"{name}_count" for name in TIMES)
SUMS = tuple(f"{name}_sum" for name in TIMES)


def test_only_answered_requests_have_times(host: Server) -> None:
    """The histograms have one entry for each `ok`, and none for a failed request."""
    before = series(scrape(host), *COUNTS)
    for way in WAYS:
        ask(way, host, "echo")
        ask(way, host, "raises")
    found = risen(before, series(scrape(host), *COUNTS))
    assert dict.fromkeys([(name, "echo", "1") for name in COUNTS], 3) == found


async def test_total_time_exceeds_queue_and_handler_time(
    host: Server, shut: Shut
) -> None:
    """The total time contains the times in the queue and in the handler."""
    gate = shut("thread")
    before = series(scrape(host), *SUMS)
    async with Clients(host) as clients:
        sent = clients.send("rest", "thread", *numbered("time", 3))
        depth = "oip_queue_depth"
        await until(lambda: metric(host, depth, "thread") == 2, "a queue")
        await asyncio.sleep(0.1)  # a time that differs from 0
        gate.open()
        await asyncio.gather(*sent)
    found = risen(before, series(scrape(host), *SUMS))
    whole, queue, handler = (found[name, "thread", "1"] for name in SUMS)
    assert whole > queue + handler
    assert queue > 0.2
    assert handler > 0.1


# -- requests in flight --------------------------------------------------------


def under_way(host: Server, model: str) -> tuple[float, float]:
    """Return the numbers of requests in flight and of those that wait."""
    names = ("oip_requests_in_flight", "oip_queue_depth")
    found = series(scrape(host), *names)
    return found[names[0], model, "1"], found[names[1], model, "1"]


def is_under_way(host: Server, model: str, expected: tuple[float, float]) -> bool:
    return under_way(host, model) == expected


@by_kind
async def test_requests_in_flight_and_queue_depth(
    host: Server, shut: Shut, kind: str
) -> None:
    """While the handler blocks, all requests are in flight, and those not in it wait.

    `oip_batch_size` has the number of requests per call: with batches of two, the first
    request runs alone.
    """
    sizes = "oip_batch_size_sum", "oip_batch_size_count"
    gate = shut(kind)
    before = series(scrape(host), *sizes)
    assert (0, 0) == under_way(host, kind)
    async with Clients(host) as clients:
        for n in range(3):
            clients.send("rest", kind, f"{kind}-{n}")
            expected = n + 1, n
            await until(partial(is_under_way, host, kind, expected), "a request")
        gate.open()
        await until(lambda: under_way(host, kind) == (0, 0), "the end")
    found = risen(before, series(scrape(host), *sizes))
    calls = 2 if kind == "batch" else 3
    assert {(sizes[0], kind, "1"): 3, (sizes[1], kind, "1"): calls} == found
    buckets = "oip_batch_size_bucket"
    alone = series(scrape(host), buckets)[buckets, "1.0", kind, "1"]
    assert 1 <= alone
    if kind == "batch":
        assert 1 == alone


# -- the life of a model ------------------------------------------------------


def states(host: Server, model: str) -> dict[str, float]:
    """Return the states of a model by name."""
    found = series(scrape(host), "oip_model_state")
    return {key[3]: value for key, value in found.items() if key[1] == model}


def only(state: str) -> dict[str, float]:
    names = ("LOADING", "READY", "UNLOADING", "UNAVAILABLE")
    return {name: float(name == state) for name in names}


def test_load_and_unload_change_state_and_time(host: Server) -> None:
    """Unloading and loading change the state, and each load sets its time."""
    loaded = "oip_model_load_seconds"
    first = metric(host, loaded, "reloaded")
    assert first > 0
    assert 200 == change(host, "rest", "unload", "reloaded").status
    assert only("UNAVAILABLE") == states(host, "reloaded")
    assert 0 == metric(host, "oip_model_ready", "reloaded")
    assert first == metric(host, loaded, "reloaded")
    assert 200 == change(host, "rest", "load", "reloaded").status
    assert only("READY") == states(host, "reloaded")
    assert 1 == metric(host, "oip_model_ready", "reloaded")
    assert metric(host, loaded, "reloaded") not in (0, first)


def test_failed_load_has_state_and_time(host: Server) -> None:
    """After a failed load the model is UNAVAILABLE, and the attempt has its time."""
    assert only("UNAVAILABLE") == states(host, "failed")
    assert metric(host, "oip_model_load_seconds", "failed") > 0


# -- several workers ----------------------------------------------------------


async def test_metrics_of_workers_are_sums(directory: Path, shut: Shut) -> None:
    """Counts, requests in flight and the workers in each state are sums.

    While a model loads nothing is in flight, though its lane is busy.
    """
    gate, loads = shut("both"), directory / "gate"
    with Server(
        "--handlers=both=fakes.held:Held,slow=fakes:SlowLoad",
        "--workers=2",
        env={"LOAD_DIR": str(directory), "SLOW_LOAD_GATE": str(loads)},
    ) as server:
        wait_for(lambda: states(server, "slow").get("LOADING") == 2, "two loads")
        assert (0, 0) == under_way(server, "slow")
        assert 0 == metric(server, "oip_model_ready", "slow")
        loads.touch()
        server.wait_until_ready()
        for model in ("both", "slow"):
            assert {**only("READY"), "READY": 2} == states(server, model)
            assert 1 == metric(server, "oip_model_ready", model)
            assert 0 < metric(server, "oip_model_load_seconds", model) < 60
        await held_in_both(server, gate)
        for _ in range(4):  # whichever worker answers
            assert 404 == server.get("/v2/nowhere").status_code
        found = series(
            scrape(server), REQUESTS, REFUSED, *BYTES,
            "oip_request_seconds_count", "oip_batch_size_sum",
        )  # fmt: skip
    asked = httpx.Request("POST", server.url, json=rest_request("both-0"))
    body = len(asked.content)  # some versions have spaces in it
    answers = found.pop((BYTES[1], "both", "1"))
    assert answers > 4 * body
    assert {
        (REQUESTS, "both", "1", "ok", "rest"): 4,
        (REFUSED, "rest", "NotFound"): 4,
        (BYTES[0], "both", "1"): 4 * body,
        ("oip_request_seconds_count", "both", "1"): 4,
        ("oip_batch_size_sum", "both", "1"): 4,
    } == found


async def held_in_both(server: Server, gate: Gate) -> None:
    """Send four requests at once; each worker that gets any runs one of them."""
    async with Clients(server) as clients:
        for n in range(4):
            clients.send("rest", "both", f"both-{n}")
        await until(lambda: under_way(server, "both")[0] == 4, "four requests")
        assert under_way(server, "both")[1] in (2, 3)
        gate.open()
        await until(lambda: under_way(server, "both") == (0, 0), "the end")
