"""The supervisor of several worker processes that serve at the same ports.

A worker is started by this program's own command line, so that it is given nothing but
its identity. Workers talk to each other by themselves, in a private directory.
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

from oip_host.config.configuration import Configuration
from oip_host.config.property_watch import PropertyWatcher
from oip_host.config.settings import Settings
from oip_host.errors import ConfigurationError
from oip_host.plugins import wheels
from oip_host.telemetry import logs
from oip_host.workers.identity import WorkerIdentity
from oip_host.workers.ports import reserve_port

__all__ = ["supervise"]

log = logging.getLogger("oip_host")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""Seconds before a dead worker is replaced: doubled each time, up to a limit."""
STABLE_S = 30.0
"""Seconds after which a worker counts as stable, and the wait begins anew."""
MARGIN_S = 8.0
"""Seconds that a worker has to end, beyond drain delay and grace period."""
_WRONG_CONFIGURATION = 2
"""The exit code of a worker whose configuration is wrong; it logs why."""
_PATH_BYTES = 72
"""The longest path of a directory that leaves room for a Unix socket's name."""


def supervise(configuration: Configuration) -> int:
    """Serve with `kserve_workers` processes until a signal, and return the exit code.

    Raises ConfigurationError with a line for each port that is taken.
    """
    with ExitStack() as stack:
        ports = _reserve_ports(configuration.settings, stack)
        directory = stack.enter_context(_make_directory())
        return asyncio.run(Supervisor(configuration, ports, directory).run())


def _reserve_ports(settings: Settings, stack: ExitStack) -> dict[str, int]:
    """Reserve the ports for the workers, and return them by their options."""
    wanted = {"kserve_http_port": settings.kserve_http_port}
    if settings.kserve_enable_grpc:
        wanted["kserve_grpc_port"] = settings.kserve_grpc_port
    if settings.oip_probe_port is not None:
        wanted["oip_probe_port"] = settings.oip_probe_port
    ports, faults = {}, []
    for name, port in wanted.items():
        try:
            reserved = stack.enter_context(reserve_port(settings.oip_bind, port))
            ports[name] = reserved.getsockname()[1]
        except OSError as error:
            faults.append(f"{name} {port}: {error}")
    if faults:
        raise ConfigurationError(faults)
    return ports


@contextmanager
def _make_directory() -> Iterator[str]:
    """Make a directory that only this user may enter, and remove it in the end."""
    try:
        is_short = len(os.fsencode(tempfile.gettempdir())) <= _PATH_BYTES
        directory = tempfile.mkdtemp(
            prefix="oip-host-", dir=None if is_short else "/tmp"
        )
    except OSError as error:
        raise ConfigurationError(
            [f"kserve_workers: could not make a directory for the workers: {error}"]
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Supervisor:
    """Starts the workers, replaces those that die, and forwards signals to them."""

    def __init__(
        self, configuration: Configuration, ports: dict[str, int], directory: str
    ) -> None:
        self._configuration = configuration
        self._count = configuration.settings.kserve_workers
        self._stop_timeout_s = _compute_stop_timeout_s(configuration.settings)
        self._watcher = PropertyWatcher()
        self._ports = ports
        self._directory = directory
        self._plugins = wheels.on_path(configuration.settings)
        self._running: dict[int, Process] = {}
        self._is_open = asyncio.Event()
        """Set when the first worker listens."""
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM
        self._code = 0

    async def run(self) -> int:
        """Run the workers until a signal, wait for their end, return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            loop.add_signal_handler(number, partial(self._handle_signal, number))
        loop.add_signal_handler(signal.SIGHUP, self._handle_sighup)
        following = asyncio.create_task(self._follow_options())
        keeping = [
            asyncio.create_task(self._keep_running(n)) for n in range(self._count)
        ]
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():  # an unexpected exception ended one of the tasks
            self._handle_signal(signal.SIGTERM)
        await asyncio.wait(keeping, timeout=self._stop_timeout_s)
        for index, process in self._running.items():
            log.error(
                "worker %d (pid %d) did not stop in time, killing it",
                index,
                process.pid,
            )
            process.kill()
            self._code = 1
        await asyncio.gather(*keeping)
        following.cancel()
        if not self._code:
            log.info("all workers have stopped")
        return self._code

    def _handle_signal(self, number: signal.Signals) -> None:
        log.info("received %s, forwarding it to the workers", number.name)
        self._signal = number
        self._stopping.set()
        self._forward(number)

    def _handle_sighup(self) -> None:
        """Tell all workers to read the options again; stop after a hangup."""
        if self._watcher.is_terminal_closed:
            self._handle_signal(signal.SIGTERM)
        else:
            self._watcher.request()
            self._forward(signal.SIGHUP)

    def _forward(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _follow_options(self) -> None:
        """Apply new options to the supervisor too; the workers log the changes.

        The time to stop only grows: workers may have rejected options for a model.
        """
        async for _ in self._watcher.watch(self._configuration.property_contents):
            configuration, faults = await asyncio.to_thread(
                self._configuration.read_again
            )
            if not faults:
                timeout_s = _compute_stop_timeout_s(configuration.settings)
                self._stop_timeout_s = max(self._stop_timeout_s, timeout_s)
                logs.set_level(configuration.settings.oip_log_level)

    async def _keep_running(self, index: int) -> None:
        """Run one worker after another until the host stops."""
        if index:  # so that a wrong configuration is reported by the first one only
            await self._wait_unless_stopping(self._is_open.wait())
        deaths = 0
        is_replacement = False
        while not self._stopping.is_set():
            started = time.monotonic()
            worker, end = await self._run_worker(index, is_replacement)
            if self._stopping.is_set():
                return
            deaths = 0 if time.monotonic() - started >= STABLE_S else deaths + 1
            wait_s = _compute_wait_s(deaths)
            log.warning("%s %s, starting another one in %g s", worker, end, wait_s)
            await self._wait_unless_stopping(asyncio.sleep(wait_s))
            is_replacement = self._is_open.is_set()

    async def _run_worker(self, index: int, is_replacement: bool) -> tuple[str, str]:
        """Start a worker and wait for its end; return its name, and how it ended."""
        try:
            process = await self._start(index, is_replacement)
        except OSError as error:
            return f"worker {index}", f"failed to start: {error}"
        self._running[index] = process
        if self._stopping.is_set():  # the signal came before the process
            process.send_signal(self._signal)
        code = await process.wait()
        del self._running[index]
        if code == _WRONG_CONFIGURATION and not self._is_open.is_set():
            self._code = code
            self._stopping.set()
        return f"worker {index} (pid {process.pid})", _describe_end(code)

    async def _start(self, index: int, is_replacement: bool) -> Process:
        """Start a worker; the first one announces later where it listens."""
        announce_fd = -1 if self._is_open.is_set() else self._open_pipe()
        identity = WorkerIdentity(
            index, self._count, self._directory, os.getpid(),
            self._ports["kserve_http_port"], self._ports.get("kserve_grpc_port", 0),
            is_replacement, announce_fd, self._plugins,
            self._ports.get("oip_probe_port"),
        )  # fmt: skip
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable, *sys.orig_argv[1:],
                env=identity.to_environment(),
                stdin=DEVNULL,
                pass_fds=() if announce_fd < 0 else [announce_fd],
                start_new_session=True,  # only this process gets Ctrl-C
            )  # fmt: skip
        finally:
            if announce_fd >= 0:
                os.close(announce_fd)

    def _open_pipe(self) -> int:
        """Return the end of a pipe on which a worker announces where it listens."""
        receives, sends = os.pipe()
        asyncio.get_running_loop().add_reader(receives, self._receive, receives)
        return sends

    def _receive(self, pipe: int) -> None:
        """Read the first worker's addresses; it sends none if it ended before."""
        addresses = os.read(pipe, 4096).decode()
        asyncio.get_running_loop().remove_reader(pipe)
        os.close(pipe)
        if addresses:
            log.info("%s, %d workers", addresses, self._count)
            self._is_open.set()

    async def _wait_unless_stopping(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Wait for something, but at most until the host stops."""
        tasks = [asyncio.create_task(w) for w in (waiting, self._stopping.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _compute_stop_timeout_s(settings: Settings) -> float:
    """Return the seconds that a worker has from a signal to its end."""
    return settings.oip_drain_delay_s + settings.oip_grace_period_s + MARGIN_S


def _compute_wait_s(deaths: int) -> float:
    """Return the seconds before the next start after so many early deaths."""
    if not deaths:
        return 0.0
    return min(FIRST_WAIT_S * 2.0 ** min(deaths - 1, 10), LONGEST_WAIT_S)


def _describe_end(code: int) -> str:
    """Return how a process ended."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
