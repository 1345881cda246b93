"""The supervisor: keeps several worker processes that serve at the same ports.

A worker is this program's own command line once more, so nothing is handed over but its
place. What they tell each other they do among themselves, in a private directory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from oip_host.config.property_watch import PropertyWatcher
from oip_host.config.settings import Configuration, Settings
from oip_host.errors import ConfigurationError
from oip_host.plugins import wheels
from oip_host.telemetry import logs
from oip_host.workers.identity import Place
from oip_host.workers.ports import reserved

__all__ = ["supervise"]

log = logging.getLogger("oip_host")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""Seconds before a worker that died is replaced: doubled each time, up to a limit."""
SETTLED_S = 30.0
"""Seconds after which a worker has proved that it can live."""
MARGIN_S = 8.0
"""Seconds that a worker has to end, beyond those in which it still answers."""
_CONFIGURATION = 2
"""The exit code of a worker whose configuration is wrong; it has said why."""
_PATH_BYTES = 72
"""The longest name of a directory in which a Unix socket can be."""


def supervise(configuration: Configuration) -> int:
    """Serve with `kserve_workers` processes until a signal; returns the exit code.

    Raises ConfigurationError where a port is taken, with a line for each.
    """
    with ExitStack() as stack:
        ports = _ports(configuration.settings, stack)
        directory = stack.enter_context(_directory())
        return asyncio.run(Supervisor(configuration, ports, directory).run())


def _ports(settings: Settings, stack: ExitStack) -> dict[str, int]:
    """Keep the ports for the workers, and tell which they are, by their options."""
    wanted = {"kserve_http_port": settings.kserve_http_port}
    if settings.kserve_enable_grpc:
        wanted["kserve_grpc_port"] = settings.kserve_grpc_port
    if settings.oip_probe_port is not None:
        wanted["oip_probe_port"] = settings.oip_probe_port
    ports, faults = {}, []
    for name, port in wanted.items():
        try:
            kept = stack.enter_context(reserved(settings.oip_bind, port))
            ports[name] = kept.getsockname()[1]
        except OSError as error:
            faults.append(f"{name} {port}: {error}")
    if faults:
        raise ConfigurationError(faults)
    return ports


@contextmanager
def _directory() -> Iterator[str]:
    """A directory that only this user may look into, gone in the end."""
    try:
        short = len(os.fsencode(tempfile.gettempdir())) <= _PATH_BYTES
        directory = tempfile.mkdtemp(prefix="oip-host-", dir=None if short else "/tmp")
    except OSError as error:
        raise ConfigurationError(
            [f"kserve_workers: no directory for what the workers share: {error}"]
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Supervisor:
    """Starts the workers, replaces those that die, and passes signals on to them."""

    def __init__(
        self, configuration: Configuration, ports: dict[str, int], directory: str
    ) -> None:
        self._configuration = configuration
        self._count = configuration.settings.kserve_workers
        self._patience_s = _patience_s(configuration.settings)
        self._watcher = PropertyWatcher()
        self._ports = ports
        self._directory = directory
        self._plugins = wheels.on_path(configuration.settings)
        self._running: dict[int, Process] = {}
        self._open = asyncio.Event()
        """Set when the first worker listens."""
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM
        self._code = 0

    async def run(self) -> int:
        """Keep the workers until a signal, and then wait for them; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            loop.add_signal_handler(number, partial(self._signalled, number))
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        following = asyncio.create_task(self._follow())
        keeping = [asyncio.create_task(self._keep(n)) for n in range(self._count)]
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():  # something failed here that nobody foresaw
            self._signalled(signal.SIGTERM)
        await asyncio.wait(keeping, timeout=self._patience_s)
        for index, process in self._running.items():
            log.error("worker %d (pid %d) does not end: killed", index, process.pid)
            process.kill()
            self._code = 1
        await asyncio.gather(*keeping)
        following.cancel()
        if not self._code:
            log.info("every worker has ended")
        return self._code

    def _signalled(self, number: signal.Signals) -> None:
        log.info("%s: the workers are told", number.name)
        self._signal = number
        self._stopping.set()
        self._pass_on(number)

    def _hung_up(self) -> None:
        """Have all read the options again; stop where the terminal was closed."""
        if self._watcher.is_terminal_closed:
            self._signalled(signal.SIGTERM)
        else:
            self._watcher.request()
            self._pass_on(signal.SIGHUP)

    def _pass_on(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _follow(self) -> None:
        """Take up the options of its own that the workers take up; they tell of them.

        Its patience only grows: they may have refused what is wrong for a model.
        """
        async for _ in self._watcher.watch():
            configuration, faults = await asyncio.to_thread(
                self._configuration.read_again
            )
            if not faults:
                now_s = _patience_s(configuration.settings)
                self._patience_s = max(self._patience_s, now_s)
                logs.set_level(configuration.settings.oip_log_level)

    async def _keep(self, index: int) -> None:
        """Have one worker, again and again, until the host is to stop."""
        if index:  # where the configuration is wrong, the first one says so alone
            await self._either(self._open.wait())
        deaths = 0
        replaces = False
        while not self._stopping.is_set():
            began = time.monotonic()
            who, how = await self._lived(index, replaces)
            if self._stopping.is_set():
                return
            deaths = 0 if time.monotonic() - began >= SETTLED_S else deaths + 1
            wait_s = _wait_s(deaths)
            log.warning("%s %s; another one starts in %g s", who, how, wait_s)
            await self._either(asyncio.sleep(wait_s))
            replaces = self._open.is_set()

    async def _lived(self, index: int, replaces: bool) -> tuple[str, str]:
        """Start a worker and wait for its end; tells which one it was, and its end."""
        try:
            process = await self._start(index, replaces)
        except OSError as error:
            return f"worker {index}", f"does not start: {error}"
        self._running[index] = process
        if self._stopping.is_set():  # it was not there yet to be told
            process.send_signal(self._signal)
        code = await process.wait()
        del self._running[index]
        if code == _CONFIGURATION and not self._open.is_set():
            self._code = code
            self._stopping.set()
        return f"worker {index} (pid {process.pid})", _ended(code)

    async def _start(self, index: int, replaces: bool) -> Process:
        """Start a worker; the first one says later where it listens."""
        tells = -1 if self._open.is_set() else self._listened_to()
        place = Place(
            index, self._count, self._directory, os.getpid(),
            self._ports["kserve_http_port"], self._ports.get("kserve_grpc_port", 0),
            replaces, tells, self._plugins, self._ports.get("oip_probe_port"),
        )  # fmt: skip
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable, *sys.orig_argv[1:],
                env=place.environment(),
                stdin=DEVNULL,
                pass_fds=() if tells < 0 else [tells],
                start_new_session=True,  # Ctrl-C reaches this process, which tells them
            )  # fmt: skip
        finally:
            if tells >= 0:
                os.close(tells)

    def _listened_to(self) -> int:
        """The end of a pipe for a worker to tell where it listens."""
        hears, tells = os.pipe()
        asyncio.get_running_loop().add_reader(hears, self._hear, hears)
        return tells

    def _hear(self, hears: int) -> None:
        """The first worker tells, or it has ended without."""
        addresses = os.read(hears, 4096).decode()
        asyncio.get_running_loop().remove_reader(hears)
        os.close(hears)
        if addresses:
            log.info("%s, %d workers", addresses, self._count)
            self._open.set()

    async def _either(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Wait for this, but no longer than until the host is to stop."""
        tasks = [asyncio.create_task(w) for w in (waiting, self._stopping.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _patience_s(settings: Settings) -> float:
    """Seconds that a worker has from a signal to its end."""
    return settings.oip_drain_delay_s + settings.oip_grace_period_s + MARGIN_S


def _wait_s(deaths: int) -> float:
    """Seconds before the next start after so many short lives."""
    if not deaths:
        return 0.0
    return min(FIRST_WAIT_S * 2.0 ** min(deaths - 1, 10), LONGEST_WAIT_S)


def _ended(code: int) -> str:
    """How a process has ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
