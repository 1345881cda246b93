"""How a server stops: the requests it still answers, its unloads and its exit code.

Under load every request is counted: it is answered, or it is refused and never run.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.fakes.held import Gate
from support.load import CLOSED, Clients, Outcome, done, numbered, until
from support.process import Server, oip_host, wait_for
from support.wire import ONE, Reply, infer_both, infer_grpc, infer_rest, request, rpc

Serve = Callable[..., Server]
READY = "/v2/health/ready"
LONG = 300.0
"""Seconds of a delay that a test does not live to see the end of."""


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def start(serve: Serve, gates: Path) -> Serve:
    """Start a server with two gated models and one that records its unload."""

    def started(*arguments: str, drain_delay_s: float = 0.0) -> Server:
        return serve(
            "--handlers=gated=fakes:Gated,other=fakes:Gated,unloads=fakes:Unloads",
            *arguments,
            drain_delay_s=drain_delay_s,
            env={"GATE_DIR": str(gates), "UNLOAD_FILE": str(gates / "unloaded")},
        ).wait_until_ready()

    return started


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Reply]]]:
    """Send a request from a separate thread."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def held(name: str) -> object:
    return request([name], [1], "BYTES")


def wait_until_held(gates: Path, name: str) -> None:
    wait_for((gates / f"{name}.started").exists, "the call")


def wait_until_closed(server: Server) -> None:
    """Wait until the server accepts no new connection."""

    def refused() -> bool:
        try:
            server.get("/v2/health/live")
        except httpx.TransportError:
            return True
        return False

    wait_for(refused, "the end of new work")


def test_draining_server_is_not_ready_and_still_answers(
    start: Serve, gates: Path
) -> None:
    """After SIGTERM readiness is false on both protocols, and work continues.

    Throughout the drain delay new connections and requests are answered; then the
    handlers are unloaded, and the exit code is 0. Here a second signal ends the delay.
    """
    server = start(drain_delay_s=LONG)
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: server.get(READY).status_code == 503, "not ready")
    document = {"ready": False, "error": "the server is shutting down"}
    assert document == server.get(READY).json()
    assert rpc(server, "ServerReady").ready is False
    assert 200 == server.get("/v2/health/live").status_code
    assert [200, "OK"] == [r.status for r in infer_both(server, "unloads", ONE)]
    assert not (gates / "unloaded").exists()
    assert server.stop() == 0
    assert "unloads\n" == (gates / "unloaded").read_text()
    assert "Traceback" not in server.log


def test_requests_in_flight_are_answered(
    start: Serve, gates: Path, background: Callable[..., Future[Reply]]
) -> None:
    """Requests accepted before the stop are answered, running or waiting, REST or gRPC.

    The handlers are unloaded only after that.
    """
    server = start("--models.gated.max_queue=1", "--models.other.max_queue=1")
    asked = [
        background(ask, server, model, held("call"))
        for ask, model in ((infer_rest, "gated"), (infer_grpc, "other"))
        for _ in range(3)
    ]
    # of three, one is refused, one runs and one waits, on either protocol
    wait_for(lambda: sum(reply.done() for reply in asked) == 2, "two refusals")
    server.process.send_signal(signal.SIGTERM)
    wait_until_closed(server)
    assert 2 == sum(reply.done() for reply in asked)
    assert not (gates / "unloaded").exists()
    (gates / "call.open").touch()
    statuses = [str(reply.result().status) for reply in asked]
    assert ["200", "200", "503"] == sorted(statuses[:3])
    assert ["OK", "OK", "RESOURCE_EXHAUSTED"] == sorted(statuses[3:])
    assert server.wait() == 0
    assert "unloads\n" == (gates / "unloaded").read_text()


def test_interrupt_skips_the_drain_delay(
    start: Serve, gates: Path, background: Callable[..., Future[Reply]]
) -> None:
    """Ctrl-C answers the requests in flight and unloads, without the drain delay."""
    server = start(drain_delay_s=LONG)
    asked = background(infer_rest, server, "gated", held("one"))
    wait_until_held(gates, "one")
    server.process.send_signal(signal.SIGINT)
    wait_until_closed(server)
    (gates / "one.open").touch()
    assert 200 == asked.result().status
    assert server.wait() == 0
    assert "unloads\n" == (gates / "unloaded").read_text()


def test_second_signal_ends_the_drain_delay(start: Serve) -> None:
    """After a second signal the server does not wait for the rest of the delay."""
    server = start(drain_delay_s=LONG)
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: server.get(READY).status_code == 503, "not ready")
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0


# -- under load ---------------------------------------------------------------

PROTOCOLS = ("rest", "v1", "grpc")
DELAY_S = 4.0
STOPPED = "the server stopped before it could answer"


async def ask_on(
    server: Server, protocol: str, prefix: str
) -> tuple[list[Outcome], float]:
    """Send requests one by one until one is refused; return them and the end."""
    outcomes: list[Outcome] = []
    async with Clients(server) as clients:
        while not outcomes or outcomes[-1].answered:
            sent = clients.send(protocol, "busy", f"{prefix}-{len(outcomes)}")
            outcomes += await asyncio.gather(*sent)
    return outcomes, time.monotonic()


async def test_stop_under_load_loses_no_request(serve: Serve, gates: Path) -> None:
    """The server becomes unready, then refuses new work, and answers all it accepted.

    Clients send until they are refused, which happens only after the drain delay: on
    REST the connection is closed without an answer, on gRPC the status is UNAVAILABLE.
    Requests that wait at that time are answered, however long it takes.
    """
    server = serve(
        "--handlers=busy=fakes.held:Held,slow=fakes.held:Held,loop=fakes.held:HeldAsync",
        "--models.busy.max_concurrency=2",
        drain_delay_s=DELAY_S,
        env={"LOAD_DIR": str(gates)},
    ).wait_until_ready()
    busy, slow, loop = (Gate(gates, model) for model in ("busy", "slow", "loop"))
    slow.shut()
    loop.shut()
    async with Clients(server) as clients:
        held = [
            request
            for model in ("slow", "loop")
            for protocol in PROTOCOLS
            for request in clients.send(protocol, model, *numbered(protocol, 4))
        ]
        asking = [
            asyncio.create_task(ask_on(server, protocol, f"{protocol}-{n}"))
            for protocol in PROTOCOLS
            for n in range(2)
        ]
        await until(lambda: slow.ran and len(loop.ran) == 12, "the calls")
        await until(lambda: len(busy.ran) > 60, "answers")
        stopped = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: server.get(READY).status_code == 503, "not ready")
        answered = len(busy.ran)
        await until(lambda: len(busy.ran) > answered, "answers that are not ready")
        results = await asyncio.gather(*asking)
        wait_until_closed(server)
        assert [] == done(held)
        slow.open()
        loop.open()
        assert all(outcome.answered for outcome in await asyncio.gather(*held))
    assert server.wait() == 0
    outcomes = [outcome for outcomes, _ in results for outcome in outcomes]
    accepted = [outcome.name for outcome in outcomes if outcome.answered]
    refused = {
        (outcomes[-1].name.partition("-")[0], outcomes[-1].status)
        for outcomes, _ in results
    }
    assert {("rest", CLOSED), ("v1", CLOSED), ("grpc", "UNAVAILABLE")} == refused
    assert all(ended - stopped >= DELAY_S for _, ended in results)
    assert sorted(accepted) == sorted(busy.ran)
    names = [name for protocol in PROTOCOLS for name in numbered(protocol, 4)]
    assert sorted(names) == sorted(slow.ran) == sorted(loop.ran)
    assert "still in flight" not in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("how", ["second signal", "grace period"])
async def test_requests_cut_off_are_refused_and_counted(
    serve: Serve, gates: Path, how: str
) -> None:
    """Each cut-off client learns that the server stopped; the log has their number.

    The requests run or wait, in a thread, on a loop and for a batch.
    """
    models = {
        "thread": "fakes.held:Held",
        "loop": "fakes.held:HeldAsync",
        "batch": "fakes.held:Held",
    }
    running = {"thread": 1, "loop": 1, "batch": 4}
    server = serve(
        "--handlers=" + ",".join(f"{m}={handler}" for m, handler in models.items()),
        "--models.loop.max_concurrency=1",
        "--models.batch.max_batch_size=4",
        *(f"--models.{model}.max_queue={9 - n}" for model, n in running.items()),
        f"--grace_period_s={1 if how == 'grace period' else LONG}",
        env={"LOAD_DIR": str(gates)},
    ).wait_until_ready()
    for model in models:
        Gate(gates, model).shut()
    async with Clients(server) as clients:
        sent = []
        for model in models:
            fill = [
                *clients.send("rest", model, *numbered(f"{model}-rest", 3)),
                *clients.send("v1", model, *numbered(f"{model}-v1", 3)),
                *clients.send("grpc", model, *numbered(f"{model}-grpc", 4)),
            ]
            # of ten, one is refused; then the other nine have been accepted
            await asyncio.wait(fill, return_when=asyncio.FIRST_COMPLETED)
            sent += [request for request in fill if not request.done()]
        assert 9 * len(models) == len(sent)
        server.process.send_signal(signal.SIGTERM)
        wait_until_closed(server)
        if how == "second signal":
            assert [] == done(sent)
            server.process.send_signal(signal.SIGTERM)
        outcomes = await asyncio.gather(*sent)
    assert server.wait() == 0
    assert {503, "UNAVAILABLE"} == {outcome.status for outcome in outcomes}
    assert [] == [outcome for outcome in outcomes if STOPPED not in outcome.text]
    assert f"rejected {len(outcomes)} requests that were still in flight" in server.log
    assert "Traceback" not in server.log


# -- a stop during the start ---------------------------------------------------


def test_endless_load_does_not_prevent_a_stop(serve: Serve, tmp_path: Path) -> None:
    """A server can be stopped while its models are still loading."""
    server = serve(
        "--handlers=slow=fakes:SlowLoad",
        "--grace_period_s=1",
        env={"SLOW_LOAD_GATE": str(tmp_path / "never")},
    )
    assert 200 == server.get("/v2/health/live").status_code
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def taken_port(stack: ExitStack) -> int:
    """Return a port of the loopback interface that is in use."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "taken", [["http"], ["grpc"], ["http", "grpc"]], ids=["rest", "grpc", "both"]
)
def test_port_in_use_is_a_fault(taken: list[str]) -> None:
    """Each such option is one clear line, all at once, with exit code 2."""
    with ExitStack() as stack:
        ports = {name: taken_port(stack) for name in taken}
        given = {"http": 0, "grpc": 0, **ports}
        result = oip_host(
            "serve",
            "--handlers=fakes:Echo",
            "--bind=127.0.0.1",
            *(f"--{name}_port={port}" for name, port in given.items()),
        )
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(taken) == len(lines)
    for line, (name, port) in zip(lines, ports.items(), strict=True):
        assert f"kserve_{name}_port {port}: " in line
        assert "address already in use" in line.lower()
    assert "Traceback" not in result.stderr
    assert "REST at" not in result.stderr + result.stdout
