"""Requests among the workers of one host, over Unix sockets in their directory.

A request is a JSON array of its name and arguments, an answer is a JSON value. Each has
a connection of its own: the end of what a side sends is the end of its message.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from oip_host.workers.identity import WorkerIdentity

__all__ = ["Peers"]

log = logging.getLogger("oip_host")

ACKNOWLEDGE_S = 1.0
"""Seconds within which a healthy worker acknowledges a request."""
ANSWER_S = 2.0
"""Seconds within which it answers a request that needs no work."""
_ACKNOWLEDGEMENT = b"\n"


class Peers:
    """The other workers, and this one's functions that answer them, by name."""

    def __init__(
        self,
        identity: WorkerIdentity,
        functions: Mapping[str, Callable[..., Awaitable[Any]]],
    ) -> None:
        self._identity = identity
        self._functions = functions
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Start to answer requests."""
        path = self._path(self._identity.index)
        self._server = await asyncio.start_unix_server(self._answer, path)

    def close(self) -> None:
        """Accept no more requests."""
        if self._server is not None:
            self._server.close()

    async def ask(
        self, name: str, *arguments: Any, timeout_s: float | None = ANSWER_S
    ) -> dict[int, Any]:
        """Return the others' answers by worker, None for each that does not answer."""
        indexes = self._identity.others
        requests = (self._ask(i, [name, *arguments], timeout_s) for i in indexes)
        answers = await asyncio.gather(*requests)
        return dict(zip(indexes, answers, strict=True))

    async def _ask(self, index: int, message: Any, timeout_s: float | None) -> Any:
        try:
            return await asyncio.wait_for(self._send(index, message), timeout_s)
        except (OSError, EOFError, ValueError, asyncio.TimeoutError):
            return None

    async def _send(self, index: int, message: Any) -> Any:
        reader, writer = await asyncio.open_unix_connection(self._path(index))
        try:
            writer.write(orjson.dumps(message))
            writer.write_eof()
            await asyncio.wait_for(
                reader.readexactly(len(_ACKNOWLEDGEMENT)), ACKNOWLEDGE_S
            )
            return orjson.loads(await reader.read())
        finally:
            writer.close()

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            name, *arguments = orjson.loads(await reader.read())
            writer.write(_ACKNOWLEDGEMENT)
            writer.write(orjson.dumps(await self._functions[name](*arguments)))
            await writer.drain()
        except ConnectionError:
            pass  # nobody waits for the answer
        except Exception:
            log.exception("request from another worker failed")
        finally:
            writer.close()

    def _path(self, index: int) -> str:
        return str(self._identity.path / f"worker-{index}.sock")
