"""The clients: connections that send prepared bytes and return those of the answer.

REST is HTTP/1.1 through httptools, the parser of uvicorn: a full HTTP client takes more
CPU than the floor that it asks, which shows in the floor's own. gRPC is grpc.aio
without messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from typing import Any

import grpc
import httptools

from bench.bodies import body_of, headers_of
from bench.workloads import WORKLOADS, Job, Workload

__all__ = ["Connection", "Send", "clients_of", "get", "post"]

HOST = "127.0.0.1"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
CHANNEL = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each client
]
Send = Callable[[str], Awaitable[bytes]]
"""Asks the model of this name and returns the body of the answer."""


class Connection(asyncio.Protocol):
    """An HTTP/1.1 client with one connection: a request, then its answer."""

    async def open(self, port: int) -> Connection:
        """Connect to a port of this machine."""
        loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[bytes] = loop.create_future()
        await loop.create_connection(lambda: self, HOST, port)
        return self

    async def ask(self, *request: bytes) -> bytes:
        """Return the body of the answer; raise OSError where its status is not 200."""
        if self._transport.is_closing():
            raise ConnectionError("the server has closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection, whatever it waits for."""
        self._answer.cancel()
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        """Begin to read answers."""
        self._transport: asyncio.WriteTransport = transport
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Begin with an answer."""
        self._parts: list[bytes] = []

    def on_body(self, part: bytes) -> None:
        """Keep a part of an answer."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Hand over an answer, or its status as an error."""
        body, status = b"".join(self._parts), self._parser.get_status_code()
        if self._answer.done():
            return
        if status == 200:
            self._answer.set_result(body)
        else:
            self._answer.set_exception(OSError(f"HTTP {status}: {body[:200]!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that waits for its answer."""
        if not self._answer.done():
            lost = ConnectionError("the server closed the connection without an answer")
            self._answer.set_exception(error or lost)


def _head(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def get(path: str) -> bytes:
    """Return a GET request."""
    return _head("GET", path, {})


def post(name: str, headers: dict[str, str]) -> bytes:
    """Return the head of a request to a model; the body follows it."""
    return _head("POST", f"/v2/models/{name}/infer", headers)


def clients_of(job: Job) -> AbstractAsyncContextManager[list[Send]]:
    """As many as the job wants, each with a connection of its own."""
    workload = WORKLOADS[job.workload]
    if workload.rest:
        return _rest(job.http_port, workload, job.clients)
    return _grpc(job.grpc_port, workload, job.clients)


@asynccontextmanager
async def _rest(port: int, workload: Workload, count: int) -> AsyncIterator[list[Send]]:
    body = body_of(workload, workload.names[0])
    headers = headers_of(workload, body)
    heads = {name: post(name, headers) for name in workload.names}

    def sender(connection: Connection) -> Send:
        return lambda name: connection.ask(heads[name], body)

    connections = [await Connection().open(port) for _ in range(count)]
    yield [sender(connection) for connection in connections]
    for connection in connections:
        connection.close()


@asynccontextmanager
async def _grpc(port: int, workload: Workload, count: int) -> AsyncIterator[list[Send]]:
    bodies = {name: body_of(workload, name) for name in workload.names}

    def sender(channel: grpc.aio.Channel) -> Send:
        call = channel.unary_unary(METHOD)
        # by REST a server is ready when it listens; its gRPC port may come later
        return lambda name: call(bodies[name], wait_for_ready=True)

    async with AsyncExitStack() as stack:
        yield [
            sender(
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(f"{HOST}:{port}", CHANNEL)
                )
            )
            for _ in range(count)
        ]
