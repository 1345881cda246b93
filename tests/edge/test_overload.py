"""More requests than a model can take: each is answered or clearly refused.

Every test counts: each request sent is either answered or refused, and the handler is
called with the answered requests only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from oip_host.edge.grpc.messages import message
from support.control import OK, PROTOCOLS, change, described, health, metric
from support.fakes.held import Gate
from support.load import (
    Clients,
    Outcome,
    Requests,
    done,
    leave,
    numbered,
    until,
)
from support.process import Server
from support.wire import ONE, infer_both, request, rpc

Shut = Callable[[str], Gate]

QUEUE = 5
TIMEOUT_S = 1.0
"""Long enough for a request to come to its place on a busy machine."""
KINDS = {
    "thread": ("fakes.held:Held", {"max_concurrency": 1}),
    "loop": ("fakes.held:HeldAsync", {"max_concurrency": 1}),
    "batch": ("fakes.held:Held", {"max_batch_size": 2}),
}
"""The ways in which a model runs its calls, with one call at a time."""
WAYS = {"rest": "rest", "reset": "rest", "v1": "v1", "grpc": "grpc"}
"""The ways in which clients ask and leave, and what that is counted as."""
FULL = {"rest": 503, "v1": 503, "grpc": "RESOURCE_EXHAUSTED"}
TEXT = "model '{}' has {} requests waiting, which is its max_queue"

by_kind = pytest.mark.parametrize("kind", KINDS)
by_way = pytest.mark.parametrize("way", WAYS)


def capacity(kind: str, concurrency: int = 1) -> int:
    """Return how many requests such a model accepts, running and waiting."""
    return (2 if kind == "batch" else concurrency) + QUEUE


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("load")


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[Server]:
    """A server that has models of each kind for each test."""
    models, options = (
        ["echo=fakes:Echo", "packed=fakes:Echo", "kserve=fakes:KServeGated"],
        [],
    )
    options.append(f"kserve.max_queue={QUEUE}")
    for kind, (handler, common) in KINDS.items():
        for use in ("full", "late", "patient", *(f"left-{way}" for way in WAYS)):
            model = f"{use}-{kind}"
            models.append(f"{model}={handler}")
            options.append(f"{model}.max_queue={QUEUE}")
            options += [f"{model}.{name}={value}" for name, value in common.items()]
        options.append(f"late-{kind}.timeout_s={TIMEOUT_S}")
    options += [f"full-{kind}.max_concurrency=2" for kind in ("thread", "loop")]
    for way in WAYS:
        models.append(f"running-{way}=fakes.held:HeldAsync")
        options.append(f"running-{way}.max_queue={QUEUE}")
        options.append(f"running-{way}.max_concurrency=2")
    models.append("changed=fakes.held:Held")
    with Server(
        f"--handlers={','.join(models)}",
        *(f"--models.{option}" for option in options),
        "--model_control=explicit",
        env={"LOAD_DIR": str(directory), "GATE_DIR": str(directory)},
    ) as server:
        yield server.wait_until_ready()
        assert "Traceback" not in server.log


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


def assert_others_answer(host: Server, model: str) -> None:
    """Expect answers from health, metrics, the model's metadata and other models."""
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/metrics",
        "/v2/models/stats",
        f"/v2/models/{model}",
        f"/v2/models/{model}/ready",
        f"/v1/models/{model}",
    ):
        assert (path, 200) == (path, host.get(path).status_code)
    assert rpc(host, "ServerLive").live is True
    assert rpc(host, "ServerReady").ready is True
    assert rpc(host, "ModelReady", message("ModelReadyRequest")(name=model)).ready
    assert ["SERVING"] * 2 == [health(host), health(host, model)]
    assert [200, "OK"] == [reply.status for reply in infer_both(host, "echo", ONE)]
    instances = {"instances": [[1, 2]]}
    assert 200 == host.post("/v1/models/echo:predict", json=instances).status_code


async def filled(clients: Clients, way: str, model: str, free: int) -> Requests:
    """Take all free places and return the requests that have them.

    One more request is sent. When it is refused, all others are in their places.
    """
    sent = clients.send(way, model, *numbered(f"{way}-{free}", free + 1))
    await until(lambda: done(sent), "a refusal")
    (refused,) = done(sent)
    assert (FULL[WAYS[way]], TEXT.format(model, QUEUE)) == refused[1:3]
    return [request for request in sent if not request.done()]


def counted(host: Server, model: str, *outcomes: str) -> float:
    """Return the number of requests with one of these outcomes in the metrics."""
    labels = [{"model_name": model, "outcome": outcome} for outcome in outcomes]
    return sum(metric(host, "oip_requests_total", **one) for one in labels)


def statistics(host: Server, model: str) -> dict[str, int]:
    """Return the numbers of answered and failed requests in the statistics."""
    (stats,) = described(host, "rest", "stats", model).document["model_stats"]
    return {name: one["count"] for name, one in stats["inference_stats"].items()}


async def until_counted(host: Server, model: str, count: int, *outcomes: str) -> None:
    """Wait until so many requests have one of these outcomes."""
    await until(lambda: counted(host, model, *outcomes) == count, f"{outcomes}")


async def until_called(gate: Gate, count: int = 1) -> None:
    """Wait until the handler was called with so many requests."""
    await until(lambda: len(gate.ran) >= count, f"{count} calls")


# -- overload -----------------------------------------------------------------


@by_kind
async def test_overflow_of_the_queue_is_refused_at_once(
    host: Server, shut: Shut, kind: str
) -> None:
    """All protocols share one capacity; requests over it are refused.

    The refusals are there while the handler holds what was accepted, and everything
    else is answered meanwhile. Then each request has its own answer.
    """
    model, each = f"full-{kind}", 20
    gate = shut(model)
    async with Clients(host) as clients:
        sent = [
            request
            for protocol in FULL
            for request in clients.send(protocol, model, *numbered(protocol, each))
        ]
        refusals = len(sent) - capacity(kind, concurrency=2)
        await until(lambda: len(done(sent)) == refusals, "the refusals")
        refused = done(sent)
        assert_others_answer(host, model)
        assert refusals == len(done(sent))
        gate.open()
        outcomes = await asyncio.gather(*sent)
        accepted = [outcome for outcome in outcomes if outcome.answered]
        assert len(sent) == len(accepted) + len(refused)
        for outcome in refused:
            protocol = outcome.name.split("-")[0]
            assert (FULL[protocol], TEXT.format(model, QUEUE)) == outcome[1:3]
            assert protocol == "grpc" or int(outcome.headers["retry-after"]) > 0
        assert sorted(gate.ran) == sorted(outcome.name for outcome in accepted)
        assert len(refused) == counted(host, model, "Overloaded")
        assert len(accepted) == counted(host, model, "ok")
        again = [clients.send(protocol, model, "again")[0] for protocol in FULL]
        assert all(outcome.answered for outcome in await asyncio.gather(*again))


# -- deadlines ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["thread", "batch"])
async def test_request_waiting_past_timeout_s_is_not_run(
    host: Server, shut: Shut, kind: str
) -> None:
    """A request that waits too long is refused, and its place is free again."""
    model = f"late-{kind}"
    gate = shut(model)
    async with Clients(host) as clients:
        first = clients.send("rest", model, "first")
        await until_called(gate)
        late = (504, f"model '{model}' did not answer within {TIMEOUT_S:g} s")
        for _ in range(2):  # more than there are places
            sent = clients.send("rest", model, "a", "b")
            sent += clients.send("v1", model, "c") + clients.send("grpc", model, "d")
            outcomes = [outcome[1:3] for outcome in await asyncio.gather(*sent)]
            assert [late] * 3 == outcomes[:3]
            assert ("DEADLINE_EXCEEDED", late[1]) == outcomes[3]
        assert late == (await first[0])[1:3]
        assert 9 == counted(host, model, "DeadlineExceeded")
        gate.open()
        (last,) = await asyncio.gather(*clients.send("rest", model, "last"))
        assert last.answered
    assert ["first", "last"] == gate.ran


@by_kind
async def test_request_past_its_deadline_is_not_run(
    host: Server, shut: Shut, kind: str
) -> None:
    """A gRPC client's deadline counts if it comes before `timeout_s`."""
    model = f"patient-{kind}"
    gate = shut(model)
    async with Clients(host) as clients:
        first = clients.send("rest", model, "first")
        await until_called(gate)
        for wave in (1, 2):  # more than there are places
            late = (clients.grpc(model, name, TIMEOUT_S) for name in ("a", "b", "c"))
            statuses = [outcome.status for outcome in await asyncio.gather(*late)]
            assert ["DEADLINE_EXCEEDED"] * 3 == statuses
            # the client's clock and the server's do not tick at the same time
            ends = ("DeadlineExceeded", "Cancelled")
            await until_counted(host, model, 3 * wave, *ends)
        waiting = await filled(clients, "grpc", model, capacity(kind) - 1)
        gate.open()
        outcomes = await asyncio.gather(*first, *waiting)
        assert all(outcome.answered for outcome in outcomes)
    assert sorted(gate.ran) == sorted(outcome.name for outcome in outcomes)


# -- clients that leave -------------------------------------------------------


@by_kind
@by_way
async def test_disconnected_client_frees_its_place(
    host: Server, shut: Shut, kind: str, way: str
) -> None:
    """Each client that leaves the queue makes room, and its request is never run.

    They are counted as failed, with the outcome "Cancelled" and their protocol.
    """
    model = f"left-{way}-{kind}"
    gate = shut(model)
    async with Clients(host) as clients:
        accepted = await filled(clients, way, model, capacity(kind))
        await until_called(gate)
        running = gate.ran
        waiting = [one for one in accepted if one.get_name() not in running]
        stays = [one for one in accepted if one not in waiting]
        await leave(waiting)
        gone = len(waiting)
        assert gone >= QUEUE
        await until_counted(host, model, gone, "Cancelled")
        stays += await filled(clients, way, model, gone)
        assert running == gate.ran
        gate.open()
        outcomes = await asyncio.gather(*stays)
        assert all(outcome.answered for outcome in outcomes)
    assert sorted(gate.ran) == sorted(outcome.name for outcome in outcomes)
    labels = {"model_name": model, "protocol": WAYS[way], "outcome": "Cancelled"}
    assert gone == metric(host, "oip_requests_total", **labels)
    counts = statistics(host, model)
    assert (len(outcomes), gone + 2) == (counts["success"], counts["fail"])


@by_way
async def test_a_coroutine_ends_with_its_client(
    host: Server, shut: Shut, way: str
) -> None:
    """A call of an async handler is cancelled, and another one runs in its place."""
    model = f"running-{way}"
    gate = shut(model)
    async with Clients(host) as clients:
        for wave in range(1, 4):
            before = (wave - 1) * (2 + QUEUE)
            running = clients.send(way, model, *numbered(f"wave-{wave}", 2))
            await until_called(gate, 2 * wave)
            await leave(await filled(clients, way, model, QUEUE))
            await until_counted(host, model, before + QUEUE, "Cancelled")
            await leave(running)
            await until_counted(host, model, before + QUEUE + 2, "Cancelled")
    names = [name for wave in range(1, 4) for name in numbered(f"wave-{wave}", 2)]
    assert names == sorted(gate.ran)


async def test_client_may_leave_during_compression(host: Server) -> None:
    """Nothing waits for the compression any longer, and the log does not mention it."""
    numbers = [0.123 * n for n in range(300_000)]
    async with httpx.AsyncClient(base_url=host.url, timeout=60) as client:
        asked = asyncio.create_task(
            client.post(
                "/v2/models/packed/infer",
                json=request(numbers, [len(numbers)]),
                headers={"accept-encoding": "gzip"},
            )
        )
        await until(lambda: statistics(host, "packed")["success"], "the handler's end")
        await leave([asked])
    assert 200 == host.get("/v2/health/live").status_code
    assert "Traceback" not in host.log


async def test_kserve_model_is_not_called_for_a_lost_client(
    host: Server, directory: Path
) -> None:
    """A `kserve.Model` is not called for a client that left the queue."""

    def started(request: asyncio.Task[Outcome]) -> bool:
        return (directory / f"{request.get_name()}.started").exists()

    async with Clients(host) as clients:
        accepted = await filled(clients, "v1", "kserve", 1 + QUEUE)
        await until(lambda: any(map(started, accepted)), "a call")
        waiting = [one for one in accepted if not started(one)]
        stays = [one for one in accepted if started(one)]
        await leave(waiting)
        await until_counted(host, "kserve", QUEUE, "Cancelled")
        stays += await filled(clients, "v1", "kserve", QUEUE)
        for request in accepted + stays:
            (directory / f"{request.get_name()}.open").touch()
        assert all(outcome.answered for outcome in await asyncio.gather(*stays))
        assert not any(map(started, waiting))


# -- changes ------------------------------------------------------------------


async def test_unloads_and_loads_lose_no_request(host: Server, directory: Path) -> None:
    """During loads and unloads a request is answered, or refused as too early.

    No request is run that is not answered, and none twice.
    """
    model, gate = "changed", Gate(directory, "changed")
    stop = asyncio.Event()

    async def ask_on(clients: Clients, protocol: str, prefix: str) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while not stop.is_set():
            name = f"{prefix}-{len(outcomes)}"
            outcomes += await asyncio.gather(*clients.send(protocol, model, name))
        return outcomes

    async with Clients(host) as clients:
        asking = [
            asyncio.create_task(ask_on(clients, protocol, f"{protocol}-{n}"))
            for protocol in FULL
            for n in range(3)
        ]
        loop = asyncio.get_running_loop()
        try:
            for action in ("unload", "load", "load") * 4:
                calls = len(gate.ran)
                for protocol in PROTOCOLS:
                    reply = await loop.run_in_executor(
                        None, change, host, protocol, action, model
                    )
                    assert OK[protocol] == reply.status
                if action == "load":
                    await until_called(gate, calls + 1)
        finally:
            stop.set()
        outcomes = [one for done in await asyncio.gather(*asking) for one in done]
    accepted = [outcome for outcome in outcomes if outcome.answered]
    refused = [outcome for outcome in outcomes if not outcome.answered]
    assert {outcome.status for outcome in refused} <= {503, "UNAVAILABLE"}
    reasons = ("it is being unloaded", "unloaded", "it is still loading")
    texts = tuple(f"model 'changed' version '1' is not ready: {r}" for r in reasons)
    assert [] == [one for one in refused if not one.text.endswith(texts)]
    assert sorted(gate.ran) == sorted(outcome.name for outcome in accepted)
