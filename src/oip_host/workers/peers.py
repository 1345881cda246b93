"""Questions among the workers of one host, over Unix sockets in their directory.

A question is a JSON array of its name and arguments, an answer is a JSON value. Each
has a connection of its own: the end of what a side sends is the end of its message.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from oip_host.workers.identity import Place

__all__ = ["Siblings"]

log = logging.getLogger("oip_host")

HEARD_S = 1.0
"""Seconds within which a worker that is well takes a question up."""
ANSWERED_S = 2.0
"""Seconds within which it answers one that needs no work."""
_HEARD = b"\n"


class Siblings:
    """The other workers, and what this one answers them by the names of questions."""

    def __init__(
        self, place: Place, answers: Mapping[str, Callable[..., Awaitable[Any]]]
    ) -> None:
        self._place = place
        self._answers = answers
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer from now on."""
        path = self._path(self._place.index)
        self._server = await asyncio.start_unix_server(self._answer, path)

    def close(self) -> None:
        """Take no more questions."""
        if self._server is not None:
            self._server.close()

    async def ask(
        self,
        question: str,
        *arguments: Any,
        timeout_s: float | None = ANSWERED_S,
    ) -> dict[int, Any]:
        """What the others answer, by their index; None for each that does not."""
        indexes = self._place.siblings
        asked = (self._ask(i, [question, *arguments], timeout_s) for i in indexes)
        answers = await asyncio.gather(*asked)
        return dict(zip(indexes, answers, strict=True))

    async def _ask(self, index: int, message: Any, timeout_s: float | None) -> Any:
        try:
            return await asyncio.wait_for(self._asked(index, message), timeout_s)
        except (OSError, EOFError, ValueError, asyncio.TimeoutError):
            return None

    async def _asked(self, index: int, message: Any) -> Any:
        reader, writer = await asyncio.open_unix_connection(self._path(index))
        try:
            writer.write(orjson.dumps(message))
            writer.write_eof()
            await asyncio.wait_for(reader.readexactly(len(_HEARD)), HEARD_S)
            return orjson.loads(await reader.read())
        finally:
            writer.close()

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            question, *arguments = orjson.loads(await reader.read())
            writer.write(_HEARD)
            writer.write(orjson.dumps(await self._answers[question](*arguments)))
            await writer.drain()
        except ConnectionError:
            pass  # nobody waits for the answer
        except Exception:
            log.exception("a question of another worker failed")
        finally:
            writer.close()

    def _path(self, index: int) -> str:
        return str(self._place.path / f"worker-{index}.sock")
