"""The host: settings and plugins make a registry, and a server serves it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pluggy
import uvloop

from oip_host.auth import setup as auth
from oip_host.config import selection
from oip_host.config.property_watch import PropertyWatcher
from oip_host.config.settings import Configuration, read
from oip_host.edge.server import KServeServer
from oip_host.edge.transport import certificates
from oip_host.errors import ConfigurationError
from oip_host.hookspecs import State
from oip_host.host import memory
from oip_host.host.differences import Found
from oip_host.host.hook_observer import observe_with_hooks
from oip_host.host.planning import Planned, plan
from oip_host.host.reload import follow
from oip_host.kserve import logs as kserve_logs
from oip_host.kserve.api import server_arguments
from oip_host.models import metrics
from oip_host.models.model import Model
from oip_host.models.registry import Registry
from oip_host.plugins import discovery as plugins
from oip_host.plugins import wheels
from oip_host.replicas.cluster import Cluster
from oip_host.telemetry import crash_report as crash
from oip_host.telemetry import otel as exporting
from oip_host.telemetry.inference_log import LatencyLog
from oip_host.workers import supervisor as workers
from oip_host.workers.identity import Place, entered

if TYPE_CHECKING:
    from oip_host.telemetry.tracing import Tracing

__all__ = ["Host"]

log = logging.getLogger("oip_host")

CUT_OFF_S = 1.0
"""Seconds for telling clients that they are cut off, and for the last unloads."""
CUT_OFF_EVERY_S = 0.1
"""Seconds between two tries to cut off a load, which has several calls."""


class Host:
    """The models of one process and the server in front of them."""

    def __init__(
        self,
        planned: Sequence[Planned],
        configuration: Configuration,
        kserve_args: Namespace,
        cluster: Cluster,
        place: Place | None = None,
    ) -> None:
        self._cluster = cluster
        self.planned = tuple(planned)
        self.configuration = configuration
        self.registry = Registry([plan.model for plan in planned])
        metrics.watch(self.registry)
        self.place = place or entered()
        """Where it is one of several workers."""
        self.server = KServeServer(
            self.registry, configuration.settings, kserve_args, self.place
        )
        self._stop: asyncio.Future[signal.Signals] | None = None
        self._hurry = asyncio.Event()
        """Set by a second signal."""
        self._watcher = PropertyWatcher()

    @classmethod
    def configured(
        cls,
        arguments: Sequence[str],
        manager: pluggy.PluginManager | None = None,
        place: Place | None = None,
        model_class: type[Model] = Model,
    ) -> Host:
        """The host that arguments, environment, properties and plugins describe.

        Imports the selected handlers and constructs none. Raises ConfigurationError
        with every fault at once.
        """
        configuration, faults = read(arguments)
        kserve_args, unknown = server_arguments(configuration.kserve_arguments)
        handler = kserve_logs.configure(configuration.settings)
        if manager is None:
            place = place or entered()
            given = place.plugins if place else None
            faults += wheels.add(configuration.settings, given)
            manager = plugins.manager()
        _add_latency_log(manager, configuration, handler)
        wanted, malformed = selection.parse(configuration.settings.oip_handlers)
        choices, wrong = plugins.choose(wanted, plugins.offered(manager))
        cluster = _cluster(configuration)
        planned, unfit, warnings = plan(
            choices, configuration, observe_with_hooks(manager), cluster, model_class
        )
        faults += [*unknown, *malformed, *wrong, *unfit]
        faults += _unfit([each.model for each in planned], configuration, kserve_args)
        warnings += auth.find_warnings(configuration)
        if not faults and not planned:
            faults = ["no installed handler can run as configured"]
        for line in (*configuration.warnings, *warnings):
            log.warning("%s", line)
        if faults:
            raise ConfigurationError(faults)
        return cls(planned, configuration, kserve_args, cluster, place)

    @classmethod
    def of(
        cls,
        given: Sequence[Model | Callable[[Cluster], Model]],
        arguments: Sequence[str] | None = None,
    ) -> Host:
        """A host of models that a program made, with that program's own arguments.

        One with replicas is given as what makes it, in the cluster that the arguments
        describe. An argument that is neither the host's nor KServe's is the program's.
        """
        configuration, faults = read(sys.argv[1:] if arguments is None else arguments)
        kserve_args, _ = server_arguments(configuration.kserve_arguments)
        handler = kserve_logs.configure(configuration.settings)
        cluster = _cluster(configuration)
        models = [each if isinstance(each, Model) else each(cluster) for each in given]
        faults += _unfit(models, configuration, kserve_args)
        place = entered()
        faults += wheels.add(configuration.settings, place.plugins if place else None)
        for line in (*configuration.warnings, *auth.find_warnings(configuration)):
            log.warning("%s", line)
        if faults:
            raise ConfigurationError(faults)
        manager = plugins.manager()
        _add_latency_log(manager, configuration, handler)
        observer = observe_with_hooks(manager)
        for model in models:
            model.observe(observer)
        planned = [Planned(model) for model in models]
        return cls(planned, configuration, kserve_args, cluster, place)

    def effective(self) -> Iterator[tuple[str, str, str]]:
        """Each option in effect as (name, value, source), secrets masked."""
        yield from self.configuration.effective()
        for planned in self.planned:
            yield from planned.effective()

    def run(self, on_loaded: Callable[[Host], None] | None = None) -> None:
        """Serve until a signal says to stop; `on_loaded` is called after the loads.

        Where several workers are to serve, this process supervises them.
        """
        if self.place is None and self.configuration.settings.kserve_workers > 1:
            code = workers.supervise(self.configuration)
            if code:
                raise SystemExit(code)
            return
        crash.report()
        memory.keep_large_blocks(self.configuration.settings.oip_kept_memory_bytes)
        run: Any = uvloop.run
        if getattr(self.server, "event_loop", "auto") == "asyncio":
            run = asyncio.run
        with exporting.exporting(self.configuration.settings) as tracing:
            self._trace(tracing)
            run(self._main(on_loaded))

    def _trace(self, tracing: Tracing | None) -> None:
        """Have the requests of every model traced, also of those in replicas."""
        for model in self.registry:
            model.observer.tracing = tracing
        self._cluster.otel = exporting.variables(self.configuration.settings)

    async def _main(self, on_loaded: Callable[[Host], None] | None) -> None:
        stop = self._catch_signals()
        await self.server.state.start()
        following = asyncio.create_task(follow(self._watcher, self))
        late = self.place is not None and self.place.replaces
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
        """Have signals tell the host to stop; the first one is the result."""
        loop = asyncio.get_running_loop()
        self._stop = loop.create_future()

        def catch() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
                loop.add_signal_handler(number, partial(self._signalled, number))
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)

        catch()
        # Ray brings its own, which aborts the process some seconds after a SIGTERM
        self._cluster.on_joined = partial(loop.call_soon_threadsafe, catch)
        return self._stop

    async def startup(self) -> None:
        """Listen; raises ConfigurationError where a port is taken."""
        await self.server.startup()
        if self.place is None:
            log.info("%s", self.server.addresses)
        else:
            log.info("worker %d of %d listens", self.place.index, self.place.count)
            self.place.tell(self.server.addresses)
        exposure = auth.describe_exposure(self.configuration.settings)
        if exposure and (self.place is None or self.place.is_first):
            log.warning("%s", exposure)

    def _signalled(self, number: signal.Signals) -> None:
        assert self._stop is not None
        if self._stop.done():
            log.warning("%s again: no more waiting", number.name)
            self._hurry.set()
        else:
            self._stop.set_result(number)

    def _hung_up(self) -> None:
        """Read the options again; stop where it means that the terminal was closed."""
        if self._watcher.is_terminal_closed:
            self._signalled(signal.SIGHUP)
        else:
            self._watcher.request()

    def reconfigure(self, found: Found) -> None:
        """Have other options hold from now on."""
        self.configuration = found.configuration
        self.server.reconfigure(found.configuration.settings)
        for planned, options in found.models:
            model = planned.model
            self.registry.find(model.name, model.version).reconfigure(options)
            model.options = options  # where it was loaded anew: another one
        known = {planned.model: planned for planned, _ in found.models}
        self.planned = tuple(known.get(each.model, each) for each in self.planned)

    async def load(self) -> None:
        """Load the models that no program has loaded yet, all at once.

        In a worker that starts later, without those that were unloaded by then.
        """
        unloaded = self.server.state.stays_unloaded
        await asyncio.gather(
            *(
                model.unload_handler() if unloaded(model.name) else model.load_handler()
                for model in self.registry
                if model.load_s is None or unloaded(model.name)
            )
        )
        memory.settle()

    async def load_within(self, seconds: float | None) -> None:
        """Load the models; one that has not loaded by then is given up."""
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
        """Answer until a signal; then tell "not ready" for the drain delay."""
        assert self._stop is not None
        number = await self._stop
        self.server.state.draining = True
        log.info("%s: not ready from now on", number.name)
        if number is signal.SIGTERM:
            await self._within(self.configuration.settings.oip_drain_delay_s)

    async def shutdown(self) -> None:
        """Answer what is in flight, within the grace period, and unload the models.

        A second signal ends the waiting. What is not answered then is refused, and the
        log says how much that is.
        """
        grace_s = self.configuration.settings.oip_grace_period_s
        ends = asyncio.get_running_loop().time() + grace_s
        stopping = asyncio.create_task(self.server.shutdown(grace_s + CUT_OFF_S))
        if not await self._within(grace_s, stopping):
            cut = self.registry.fail_pending(
                "the server stopped before it could answer"
            )
            log.warning("cut off: %d requests in flight", cut)
            if not (await asyncio.wait([stopping], timeout=CUT_OFF_S))[0]:
                await self.server.abort()
        left_s = ends - asyncio.get_running_loop().time()
        unloading = asyncio.create_task(self.unload())
        await self._within(max(left_s, 0.0), unloading)
        if not (await asyncio.wait([unloading], timeout=CUT_OFF_S))[0]:
            log.warning("cut off: models that do not unload in time")
        await self.server.state.close()
        log.info("stopped")

    async def unload(self) -> None:
        """Let every handler go, and Ray, where models had replicas there."""
        await self.registry.unload()
        await self._cluster.stop()

    async def _within(
        self, seconds: float, task: asyncio.Task[None] | None = None
    ) -> bool:
        """Wait for a task, or only for the time to pass; a second signal ends it early.

        Tells whether the task is done.
        """
        hurry = asyncio.create_task(self._hurry.wait())
        tasks = {hurry} if task is None else {hurry, task}
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        return task is not None and task.done()


def _cluster(configuration: Configuration) -> Cluster:
    settings = configuration.settings
    return Cluster(settings.oip_ray_address, settings.oip_ray_token_file)


def _unfit(
    models: Sequence[Model],
    configuration: Configuration,
    kserve_args: Namespace,
) -> list[str]:
    """What stands against serving these models as configured, a line each."""
    settings = configuration.settings
    return [
        *_one_ray(models, configuration),
        *certificates.find_faults(settings, kserve_args),
        *auth.find_faults(settings),
        *exporting.faults(settings),
    ]


def _one_ray(models: Sequence[Model], configuration: Configuration) -> list[str]:
    """The fault of workers that would each have replicas of their own."""
    replicated = [model.name for model in models if model.options.replicated]
    workers = configuration.settings.kserve_workers
    if workers == 1 or not replicated:
        return []
    return [
        f"kserve_workers: found {workers}, expected 1 for models with replicas: "
        f"{', '.join(replicated)}"
    ]


def _add_latency_log(
    manager: pluggy.PluginManager,
    configuration: Configuration,
    handler: logging.StreamHandler[Any] | None,
) -> None:
    if configuration.settings.kserve_enable_latency_logging:
        form = configuration.settings.oip_log_format
        manager.register(LatencyLog(handler, form))
