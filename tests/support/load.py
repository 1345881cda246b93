"""Load: clients that send many requests at once, over each protocol.

A request's name is its input's only element and also its answer. The handlers for these
requests are those of `fakes.held`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import grpc
import httpx

from oip_host.edge.grpc.messages import SERVICE, message
from support.process import DEADLINE_S, Server

CLOSED = "CLOSED"
"""The status of a request whose connection ended without an answer."""


class Outcome(NamedTuple):
    """The result of a request.

    The status is HTTP's number or the name of gRPC's code; the text is the answer's
    only element, or the error's text.
    """

    name: str
    status: int | str
    text: str
    headers: Mapping[str, str]

    @property
    def answered(self) -> bool:
        """Return whether it has its own answer, which is its name."""
        good = self.status in (200, "OK")
        assert not good or self.text == self.name, self
        return good


Requests = list["asyncio.Task[Outcome]"]


class Clients:
    """Clients of one server; to cancel a request is to leave."""

    def __init__(self, server: Server) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(
            base_url=server.url, limits=limits, timeout=DEADLINE_S
        )
        # a separate connection, even beside other channels
        self._channel = grpc.aio.insecure_channel(
            server.grpc_address, [("grpc.use_local_subchannel_pool", 1)]
        )
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._sent: set[asyncio.Task[Outcome]] = set()
        self._port = server.http_port
        self._asks = {
            "rest": self.rest,
            "reset": self.reset,
            "v1": self.v1,
            "grpc": self.grpc,
        }

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await leave(self._sent)
        await self._http.aclose()
        await self._channel.close()

    def send(self, protocol: str, model: str, *names: str) -> Requests:
        """Send requests at the same time."""
        ask = self._asks[protocol]
        requests = [asyncio.create_task(ask(model, n), name=n) for n in names]
        self._sent.update(requests)
        return requests

    async def rest(self, model: str, name: str) -> Outcome:
        return await self._post(f"/v2/models/{model}/infer", name, rest_request(name))

    async def v1(self, model: str, name: str) -> Outcome:
        return await self._post(
            f"/v1/models/{model}:predict", name, {"instances": [name]}
        )

    async def _post(self, path: str, name: str, body: Any) -> Outcome:
        try:
            answer = await self._http.post(path, json=body)
        except httpx.TransportError as error:
            return Outcome(name, CLOSED, repr(error), {})
        return outcome(name, answer.status_code, answer.json(), answer.headers)

    async def reset(self, model: str, name: str) -> Outcome:
        """Send a request over REST whose connection is reset when the client leaves."""
        body = json.dumps(rest_request(name)).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        at_once = struct.pack("ii", 1, 0)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        try:
            head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\n"
            end = f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write((head + end).encode() + body)
            answer = await reader.read()
        finally:
            writer.transport.abort()
        status, _, rest = answer.partition(b"\r\n")
        document = json.loads(rest.partition(b"\r\n\r\n")[2])
        return outcome(name, int(status.split()[1]), document, {})

    async def grpc(
        self, model: str, name: str, timeout_s: float = DEADLINE_S
    ) -> Outcome:
        try:
            data = await self._infer(wire(model, name), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return Outcome(name, error.code().name, str(error.details()), {})
        answer = message("ModelInferResponse").FromString(data)
        (text,) = answer.outputs[0].contents.bytes_contents
        return Outcome(name, "OK", text.decode(), {})


def rest_request(name: str) -> dict[str, Any]:
    """Return a request in REST's form."""
    x = {"name": "x", "shape": [1], "datatype": "BYTES", "data": [name]}
    return {"inputs": [x]}


def outcome(
    name: str, status: int, document: dict[str, Any], headers: Mapping[str, str]
) -> Outcome:
    """Return the outcome that a response of REST or V1 has."""
    if status != 200:
        text = document["error"]
    elif "predictions" in document:
        (text,) = document["predictions"]
    else:
        (text,) = document["outputs"][0]["data"]
    return Outcome(name, status, text, headers)


def wire(model: str, name: str) -> bytes:
    """Return a request in gRPC's form."""
    request = message("ModelInferRequest")(model_name=model)
    x = request.inputs.add(name="x", datatype="BYTES", shape=[1])
    x.contents.bytes_contents.append(name.encode())
    data: bytes = request.SerializeToString()
    return data


def numbered(prefix: str, count: int) -> list[str]:
    """Return this number of names."""
    return [f"{prefix}-{n}" for n in range(count)]


def done(requests: Requests) -> list[Outcome]:
    """Return the outcomes of the requests that have ended by now."""
    return [request.result() for request in requests if request.done()]


async def leave(requests: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel requests, so that their clients leave without an answer."""
    leaving = list(requests)
    for request in leaving:
        request.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of a condition, while the clients go on."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {DEADLINE_S:g} s")
