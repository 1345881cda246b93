"""A long run leaves nothing behind: the server does not grow.

It lasts `SOAK_S` seconds; a variable of that name makes it longer, as in `SOAK_S=3600
pytest tests/host/test_soak.py`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import NamedTuple

import grpc
import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from oip_host.edge.grpc.messages import SERVICE, message
from support.load import until
from support.process import Server
from support.wire import ONE

pytestmark = pytest.mark.slow

SOAK_S = float(os.environ.get("SOAK_S", "20"))
CLIENTS = 6
LEAVING = 0.1
"""The part of the requests whose clients go away, and the seconds within which."""
LEFT_AFTER_S = 0.02
MIB = 1 << 20
BLOCKS = 0.5
"""Blocks of memory that a request may leave behind: one for each would be a leak.

There are some: a list that has had to grow once keeps its size.
"""
GARBAGE = 20
"""Objects that a request may leave for the collector; gRPC's own library leaves five.

An error that keeps its frames leaves some sixty, and all that the request had.
"""
SPARE = 8
"""Threads and descriptors more than before: gRPC adds to its own as it needs them.

One for each client that left, or for each connection, would be hundreds.
"""


class Case(NamedTuple):
    """A request, its status, and a part of the expected answer; gRPC has no path."""

    path: str
    body: bytes
    status: int | str
    proof: bytes
    headers: dict[str, str] = {}  # noqa: RUF012  # nobody writes to it


def infer(model: str) -> str:
    return f"/v2/models/{model}/infer"


def tensor(count: int, datatype: str) -> str:
    return f'"name":"x","shape":[{count},1],"datatype":"{datatype}"'


def as_json(count: int, model: str = "echo") -> Case:
    """Return a request with this many numbers, of ten bytes each."""
    data = ",".join(f"{n}.25" for n in range(100_000, 100_000 + count))
    body = f'{{"inputs":[{{{tensor(count, "FP64")},"data":[{data}]}}]}}'
    return Case(infer(model), body.encode(), 200, data.encode())


def as_binary(size: int) -> Case:
    """Return a request with this many bytes after the JSON part, both ways."""
    data = np.arange(size // 4, dtype="<f4").tobytes()
    x = f'{tensor(size // 4, "FP32")},"parameters":{{"binary_data_size":{size}}}'
    head = f'{{"inputs":[{{{x}}}],"parameters":{{"binary_data_output":true}}}}'
    headers = {"inference-header-content-length": str(len(head))}
    return Case(infer("echo"), head.encode() + data, 200, data, headers)


def as_instances(count: int) -> Case:
    """Return a V1 request with this many rows."""
    data = ",".join("[1.0,2.0]" for _ in range(count))
    body = f'{{"instances":[{data}]}}'.encode()
    return Case("/v1/models/echo:predict", body, 200, data.encode())


def as_message(size: int, raw: bool, model: str = "echo", shape: int = 0) -> Case:
    """Return a gRPC request with this many bytes, raw or in their typed field."""
    array = np.arange(size // 4, dtype="<f4")
    wire = message("ModelInferRequest")(model_name=model)
    x = wire.inputs.add(name="x", datatype="FP32", shape=[shape or size // 4])
    if raw:
        wire.raw_input_contents.append(array.tobytes())
    else:
        x.contents.fp32_contents.extend(array.tolist())
    return Case("", wire.SerializeToString(), "OK", array.tobytes())


def wrong(
    status: int | str, proof: bytes, case: Case, old: bytes = b"", new: bytes = b""
) -> Case:
    """Return a request that is refused because a part of its body is replaced."""
    body = case.body.replace(old, new) if old else case.body
    return case._replace(status=status, proof=proof, body=body)


def raising(size: int) -> Case:
    """Return a request of this many bytes that the handler refuses."""
    x = '"name":"x","shape":[2],"datatype":"BYTES","data":["ValueError",'
    body = f'{{"inputs":[{{{x}"{"x" * size}"]}}]}}'.encode()
    return Case(infer("raises"), body, 400, b"the handler's own words")


SMALL = [
    *(as_json(count) for count in (1, 10, 100)),
    *(as_json(count, "batched") for count in (1, 2, 3)),
    as_json(1, "async"),
    as_json(10, "lists")._replace(proof=b"200000.5,200002.5"),
    *(as_binary(size) for size in (4, 1 << 10)),
    as_instances(1),
    *(as_message(size, raw) for size in (4, 1 << 10) for raw in (True, False)),
    wrong(400, b"not valid JSON", as_json(1), b"}", b""),
    wrong(404, b"is not on this server", as_json(1, "nobody")),
    wrong(400, b"needs 2 elements", as_json(1), b"[1,1]", b"[2,1]"),
    wrong(400, b"expected an object", as_instances(1), b"instances", b"rows"),
    raising(1),
    wrong("INVALID_ARGUMENT", b"", as_message(4, raw=True), b"\n\x04", b"\xff\xff"),
    wrong("NOT_FOUND", b"is not on", as_message(4, raw=False, model="nobody")),
    wrong("INVALID_ARGUMENT", b"needs 9", as_message(4, raw=False, shape=9)),
]
LARGE = [
    *(as_json(count) for count in (5_000, 100_000)),
    as_json(20_000)._replace(headers={"accept-encoding": "gzip"}),
    as_json(5_000, "async"),
    as_json(1_000, "lists")._replace(proof=b"200000.5,200002.5"),
    *(as_binary(size) for size in (1 << 16, 1 << 20, 4 << 20)),
    as_instances(5_000),
    *(as_message(size, raw=True) for size in (1 << 16, 1 << 20, 4 << 20)),
    *(as_message(size, raw=False) for size in (1 << 16, 1 << 20)),
    wrong(400, b"not valid JSON", as_json(100_000), b"}", b""),
    wrong(400, b"needs 9 elements", as_json(100_000), b"[100000,1]", b"[9,1]"),
    wrong(400, b"needs 1048575", as_binary(4 << 20), b"[1048576,", b"[1048575,"),
    wrong(400, b"expected an object", as_instances(5_000), b"instances", b"rows"),
    raising(1 << 20),
    wrong("INVALID_ARGUMENT", b"needs 9", as_message(4 << 20, raw=True, shape=9)),
]
"""What is large and refused is among them: a request that fails has to go as well."""


class Client:
    """A client of both protocols that checks every answer on its own connections."""

    def __init__(
        self, http: httpx.AsyncClient, channel: grpc.aio.Channel, seed: int
    ) -> None:
        self._random = random.Random(seed)
        self._http = http
        self._infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")

    async def run(self, cases: Sequence[Case], end: float) -> Counter[str]:
        """Send requests until `end` and return their number by outcome."""
        counts: Counter[str] = Counter()
        while time.monotonic() < end:
            case = self._random.choice(cases)
            asked = asyncio.create_task(self.ask(case))
            if self._random.random() < LEAVING:
                timeout_s = LEFT_AFTER_S * self._random.random()
                await asyncio.wait([asked], timeout=timeout_s)
                asked.cancel()
            try:
                await asked
            except asyncio.CancelledError:
                counts["left"] += 1
            else:
                good = case.status in (200, "OK")
                counts["answered" if good else "refused"] += 1
        return counts

    async def ask(self, case: Case) -> None:
        """Send a request and check that the answer is its own."""
        ask = self._rest if case.path else self._grpc
        status, answer = await ask(case)
        assert (case.status, True) == (status, case.proof in answer), answer[:200]

    async def _rest(self, case: Case) -> tuple[int | str, bytes]:
        answer = await self._http.post(
            case.path,
            content=case.body,
            headers={"content-type": "application/json", **case.headers},
        )
        return answer.status_code, answer.content

    async def _grpc(self, case: Case) -> tuple[int | str, bytes]:
        try:
            return "OK", await self._infer(case.body, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code().name, str(error.details()).encode()


@asynccontextmanager
async def clients_of(server: Server) -> AsyncIterator[list[Client]]:
    """Clients that disconnect together."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
    ]
    async with AsyncExitStack() as stack:
        yield [
            Client(
                await stack.enter_async_context(
                    httpx.AsyncClient(
                        base_url=server.url,
                        timeout=60,
                        headers={"accept-encoding": "identity"},
                    )
                ),
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(server.grpc_address, options)
                ),
                seed,
            )
            for seed in range(CLIENTS)
        ]


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """A server with a model for each way of running one, and one that counts."""
    return serve(
        "--handlers=echo=fakes:Echo,lists=fakes:Lists,batched=fakes:Echo,"
        "async=fakes:Async,raises=fakes:Raises,census=fakes.held:Census",
        "--models.batched.max_batch_size=4",
        "--models.async.max_concurrency=4",
        "--max_asyncio_workers=2",
    ).wait_until_ready()


def counted(server: Server) -> tuple[int, int]:
    """Return the server's memory blocks, and the objects that await the collector."""
    answer = server.post("/v2/models/census/infer", json=ONE).json()
    blocks, garbage = answer["outputs"][0]["data"]
    return blocks, garbage


class Census(NamedTuple):
    """The resources of a server without clients."""

    fds: int
    threads: int
    blocks: int


async def census(server: Server) -> Census:
    """Count once the clients' connections are gone and the numbers stay the same."""
    process = psutil.Process(server.process.pid)
    seen: list[tuple[int, int]] = []

    def at_rest() -> bool:
        seen.append((process.num_fds(), process.num_threads()))
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    await until(at_rest, "rest")
    return Census(*seen[-1], counted(server)[0])


async def test_request_leaves_nothing_for_the_collector(server: Server) -> None:
    """The memory of a request is free when it ends, also if it was refused.

    The host makes the collector run rarely (`memory.freeze_objects`), and an error that
    is part of a cycle would keep the tensors of its request until then.
    """
    times, left = 5, {}
    async with clients_of(server) as (client, *_):
        for n, case in enumerate(SMALL + LARGE):
            await client.ask(case)
            counted(server)
            for _ in range(times):
                await client.ask(case)
            _, garbage = counted(server)
            if garbage > GARBAGE * times:
                left[n, case.body[:60], case.status] = garbage / times
    assert {} == left


@pytest.mark.timeout(SOAK_S + 600)
@pytest.mark.parametrize(
    ("cases", "bound"),
    [
        pytest.param(SMALL + LARGE, 96 * MIB, id="mixed"),
        pytest.param(SMALL, 8 * MIB, id="small"),
    ],
)
async def test_long_run_leaves_nothing_behind(
    server: Server, cases: list[Case], bound: int
) -> None:
    """Mixed sizes, errors and clients that leave do not take memory for good.

    Every request is answered as expected, or its client left. The resident memory is
    compared between the two halves of the time after a warm-up, by their medians. In
    the warm-up all clients send the same request at once, the largest first, since the
    host keeps freed memory for the next tensors. Growth after that is the allocator's,
    up to about 40 MiB as measured; the bound is twice that, and a fraction of the
    gigabytes that the mixed requests carry. It does not grow with time, and with small
    requests a leak of a few kilobytes each soon shows. Python's own count of memory
    blocks, and the numbers of threads and file descriptors, stay as before.
    """
    process = psutil.Process(server.process.pid)
    began = time.monotonic()
    async with clients_of(server) as clients:
        while time.monotonic() < began + SOAK_S / 8:
            for case in sorted(cases, key=lambda case: -len(case.body)):
                await asyncio.gather(*(client.ask(case) for client in clients))
    before = await census(server)
    began, memory = time.monotonic(), []
    async with clients_of(server) as clients:
        runs = [client.run(cases, began + SOAK_S * 3 / 8) for client in clients]
        running = asyncio.gather(*runs)
        while not running.done():
            memory.append(process.memory_info().rss)
            await asyncio.sleep(0.02)
        counts = sum(await running, Counter[str]())
    after = await census(server)
    half = len(memory) // 2
    grown = median(memory[half:]) - median(memory[:half])
    told = f"{dict(counts)}, {before}, {after}, {grown / MIB:.1f} MiB more"
    print(told)
    assert {"answered", "refused", "left"} == set(counts)
    assert grown < bound, told
    assert after.blocks - before.blocks < BLOCKS * counts.total(), told
    assert after.fds <= before.fds + SPARE, told
    assert after.threads <= before.threads + SPARE, told
    assert server.stop() == 0
    raised = server.log.count("infer of model 'raises' version '1' raised")
    assert 0 < raised == server.log.count("Traceback (most recent call last)")
