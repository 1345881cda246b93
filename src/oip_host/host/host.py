"""The host: the models of one process, the server in front of them, and their life."""

from __future__ import annotations

import asyncio
import logging
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from oip_host.auth import setup as auth
from oip_host.config.configuration import Configuration
from oip_host.config.property_watch import PropertyWatcher
from oip_host.edge.server import KServeServer
from oip_host.hookspecs import State
from oip_host.host import memory
from oip_host.host.planning import Plan, SkippedHandler
from oip_host.host.reload import ReloadPlan, follow
from oip_host.models import metrics
from oip_host.models.registry import Registry
from oip_host.replicas.cluster import Cluster
from oip_host.telemetry import crash_report, otel
from oip_host.workers import supervisor
from oip_host.workers.identity import WorkerIdentity

if TYPE_CHECKING:
    from oip_host.telemetry.tracing import Tracing

__all__ = ["Host"]

log = logging.getLogger("oip_host")

CUT_OFF_S = 1.0
"""Seconds to answer clients that are cut off, and for the last unloads."""
CUT_OFF_EVERY_S = 0.1
"""Seconds between two attempts to cut off a load, which has several calls."""


class Host:
    """The models of one process and the server in front of them."""

    def __init__(
        self,
        plan: Plan,
        configuration: Configuration,
        kserve_args: Namespace,
        cluster: Cluster,
        worker: WorkerIdentity | None = None,
    ) -> None:
        self._cluster = cluster
        self.planned = plan.models
        self.skipped: tuple[SkippedHandler, ...] = plan.skipped
        """The installed handlers that are not served, for lack of settings."""
        self.configuration = configuration
        self.registry = Registry([each.model for each in plan.models])
        metrics.watch(self.registry)
        self.worker = worker
        """Which of several workers this process is; None if it is none."""
        self.server = KServeServer(
            self.registry, configuration.settings, kserve_args, self.worker
        )
        self._stop: asyncio.Future[signal.Signals] | None = None
        self._hurry = asyncio.Event()
        """Set by a second signal."""
        self._watcher = PropertyWatcher()

    def list_effective(self) -> Iterator[tuple[str, str, str]]:
        """Yield each option in effect as (name, value, source), secrets masked."""
        yield from self.configuration.list_effective()
        for planned in self.planned:
            yield from planned.list_effective()

    def run(self, on_loaded: Callable[[Host], None] | None = None) -> None:
        """Serve until a signal says to stop; `on_loaded` is called after the loads.

        If several workers are to serve, this process supervises them.
        """
        if self.worker is None and self.configuration.settings.kserve_workers > 1:
            code = supervisor.supervise(self.configuration)
            if code:
                raise SystemExit(code)
            return
        crash_report.enable()
        memory.keep_large_blocks(self.configuration.settings.oip_kept_memory_bytes)
        run: Any = uvloop.run
        if getattr(self.server, "event_loop", "auto") == "asyncio":
            run = asyncio.run
        with otel.export_spans(self.configuration.settings) as tracing:
            self._trace(tracing)
            run(self._main(on_loaded))

    def _trace(self, tracing: Tracing | None) -> None:
        """Trace the requests of every model, also of those in replicas."""
        for model in self.registry:
            model.observer.tracing = tracing
        self._cluster.otel = otel.list_variables(self.configuration.settings)

    async def _main(self, on_loaded: Callable[[Host], None] | None) -> None:
        stop = self._catch_signals()
        await self.server.state.start()
        following = asyncio.create_task(follow(self._watcher, self))
        late = self.worker is not None and self.worker.is_replacement
        if not late:
            await self.startup()
        loading = asyncio.create_task(self.load())
        if on_loaded is not None:
            loading.add_done_callback(
                lambda task: None if task.cancelled() else on_loaded(self)
            )
        if late:  # the others serve meanwhile
            either: set[asyncio.Future[Any]] = {loading, stop}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            await self.startup()
        await self.serve()
        loading.cancel()
        await self.shutdown()
        following.cancel()

    def _catch_signals(self) -> asyncio.Future[signal.Signals]:
        """Install the signal handlers; the first signal to stop is the result."""
        loop = asyncio.get_running_loop()
        self._stop = loop.create_future()

        def catch() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
                loop.add_signal_handler(number, partial(self._handle_signal, number))
            loop.add_signal_handler(signal.SIGHUP, self._handle_hangup)

        catch()
        # Ray installs its own, which abort the process some seconds after a SIGTERM
        self._cluster.on_joined = partial(loop.call_soon_threadsafe, catch)
        return self._stop

    async def startup(self) -> None:
        """Listen; raises ConfigurationError if a port is taken."""
        await self.server.startup()
        if self.worker is None:
            log.info("%s", self.server.addresses)
        else:
            log.info(
                "worker %d of %d is listening", self.worker.index, self.worker.count
            )
            self.worker.announce(self.server.addresses)
        exposure = auth.describe_exposure(self.configuration.settings)
        if exposure and (self.worker is None or self.worker.is_first):
            log.warning("%s", exposure)

    def _handle_signal(self, number: signal.Signals) -> None:
        """Begin to stop at the first signal, and stop waiting at a second one."""
        assert self._stop is not None
        if self._stop.done():
            log.warning("second signal (%s), stopping without waiting", number.name)
            self._hurry.set()
        else:
            self._stop.set_result(number)

    def _handle_hangup(self) -> None:
        """Read the options again, or stop if SIGHUP means that the terminal closed."""
        if self._watcher.is_terminal_closed:
            self._handle_signal(signal.SIGHUP)
        else:
            self._watcher.request()

    def reconfigure(self, plan: ReloadPlan) -> None:
        """Put the options of a plan into effect."""
        self.configuration = plan.configuration
        self.server.reconfigure(plan.configuration.settings)
        for planned, options in plan.models:
            model = planned.model
            self.registry.find(model.name, model.version).reconfigure(options)
            model.options = options  # the registry has another one after a new load
        known = {planned.model: planned for planned, _ in plan.models}
        self.planned = tuple(known.get(each.model, each) for each in self.planned)

    async def load(self) -> None:
        """Load the models that no program has loaded yet, all at once.

        A worker that starts later leaves out those that were unloaded by then.
        """
        unloaded = self.server.state.stays_unloaded
        await asyncio.gather(
            *(
                model.unload_handler() if unloaded(model.name) else model.load_handler()
                for model in self.registry
                if model.load_s is None or unloaded(model.name)
            )
        )
        memory.freeze_objects()

    async def load_within(self, seconds: float | None) -> None:
        """Load the models; one that has not loaded in time becomes unavailable."""
        loading = asyncio.create_task(self.load())
        if (await asyncio.wait([loading], timeout=seconds))[0]:
            await loading
            return
        reason = f"it did not load within {seconds:g} s"
        late = [model for model in self.registry if model.state is State.LOADING]
        while not (await asyncio.wait([loading], timeout=CUT_OFF_EVERY_S))[0]:
            self.registry.fail_pending(reason)
        for model in late:
            model.state, model.reason = State.UNAVAILABLE, reason

    async def serve(self) -> None:
        """Answer until a signal, and be unready for the drain delay after it."""
        assert self._stop is not None
        number = await self._stop
        self.server.state.draining = True
        log.info("received %s, draining: readiness is now false", number.name)
        if number is signal.SIGTERM:
            await self._wait(self.configuration.settings.oip_drain_delay_s)

    async def shutdown(self) -> None:
        """Answer what is in flight, within the grace period, and unload the models.

        A second signal ends the waiting. Requests that are not answered by then are
        rejected, and the log says how many.
        """
        grace_s = self.configuration.settings.oip_grace_period_s
        ends = asyncio.get_running_loop().time() + grace_s
        stopping = asyncio.create_task(self.server.shutdown(grace_s + CUT_OFF_S))
        if not await self._wait(grace_s, stopping):
            cut = self.registry.fail_pending(
                "the server stopped before it could answer"
            )
            log.warning("rejected %d requests that were still in flight", cut)
            if not (await asyncio.wait([stopping], timeout=CUT_OFF_S))[0]:
                await self.server.abort()
        left_s = ends - asyncio.get_running_loop().time()
        unloading = asyncio.create_task(self.unload())
        await self._wait(max(left_s, 0.0), unloading)
        if not (await asyncio.wait([unloading], timeout=CUT_OFF_S))[0]:
            log.warning("stopping before all models have unloaded")
        await self.server.state.close()
        log.info("stopped")

    async def unload(self) -> None:
        """Unload every handler, and leave Ray if models had replicas there."""
        await self.registry.unload()
        await self._cluster.stop()

    async def _wait(
        self, seconds: float, task: asyncio.Task[None] | None = None
    ) -> bool:
        """Wait for a task, or for the time to pass; a second signal ends it early.

        Returns whether the task is done.
        """
        hurry = asyncio.create_task(self._hurry.wait())
        tasks = {hurry} if task is None else {hurry, task}
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        return task is not None and task.done()
