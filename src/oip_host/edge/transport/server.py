"""uvicorn with the host's limits: starts, sweeps over connections, and drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar, cast

import uvicorn

from oip_host.config.settings import Settings
from oip_host.edge.transport.http import HttpConnection

__all__ = ["HttpServer", "make_protocol"]

log = logging.getLogger("oip_host")

LAST_S = 0.1
"""Seconds in which open connections may still bring a request as the server ends."""
LOG_EVERY_S = 10.0
"""Seconds between two lines of the log on refusals."""


def make_protocol(settings: Settings) -> type[HttpConnection]:
    """Make the class of one server's connections, with the limits of the settings."""

    class Limited(HttpConnection):
        refusals_by_text: ClassVar[Counter[str]] = Counter()

    Limited.set_limits(settings)
    return Limited


class HttpServer(uvicorn.Server):
    """uvicorn with a sweep, and without signal handlers: the host has its own.

    Its configuration has `make_protocol(settings)` as `http`, and `"none"` as `ws`.
    """

    def __init__(
        self, config: uvicorn.Config, context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(config)
        self._context = context
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._http = cast("type[HttpConnection]", config.http)
        self._refusals = self._http.refusals_by_text
        self._logged = -LOG_EVERY_S
        self.set_limits(self._http.limits)
        self._now = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the host."""
        yield

    def set_limits(self, limits: Settings) -> None:
        """Apply the limits of these options to open connections too."""
        self._http.set_limits(limits)
        shortest = min(limits.oip_header_timeout_s, limits.oip_body_timeout_s)
        self._every_s = min(max(shortest / 4, 0.01), 0.5)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and begin to sweep."""
        await super().startup([])  # which would give a TLS handshake a minute
        for bound in sockets or ():
            self.servers.append(await self._listen(bound))
        self._sweep()
        self._listening.set()

    async def _listen(self, bound: socket.socket) -> asyncio.Server:
        """Accept connections, with as much time for a TLS handshake as for a head."""
        seconds = self._http.limits.oip_header_timeout_s
        return await asyncio.get_running_loop().create_server(
            lambda: self._http(self.config, self.server_state, self.lifespan.state),
            sock=bound,
            backlog=self.config.backlog,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else seconds,
        )

    async def begin(self, bound: socket.socket) -> None:
        """Serve at a socket until `end`; return once connections are accepted."""
        self._task = asyncio.create_task(self.serve(sockets=[bound]))
        await self.wait_until_listening()

    async def wait_until_listening(self) -> None:
        """Wait until connections are accepted."""
        await self._listening.wait()

    async def end(self, grace_s: float) -> None:
        """Stop accepting work, and give requests in flight `grace_s` seconds."""
        assert self._task is not None
        self.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self.should_exit = True
        await self._task

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down as uvicorn does, after requests that are already on their way."""
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        self._http.ending = True
        if not self.force_exit:
            await asyncio.sleep(LAST_S)
        await super().shutdown(sockets)
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        """End the connections whose clients are late, and schedule the next sweep.

        Time is counted in sweeps, so no client is late because the loop was held up.
        """
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._every_s, self._sweep)
        self._now += self._every_s
        for connection in list(self.server_state.connections):
            cast("HttpConnection", connection).check_time(self._now)
        if self._refusals and self._now >= self._logged + LOG_EVERY_S:
            self._logged = self._now
            for refusal, times in self._refusals.items():
                log.warning("%d refused: %s", times, refusal)
            self._refusals.clear()
