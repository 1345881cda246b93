"""The applications of one host in Ray Serve: to deploy, watch and delete them.

Ray is there from the first model that asks for it; `ray_join` says how.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from oip_handler.errors import ModelNotReady
from oip_host.replicas import ray_join

__all__ = ["Application", "Cluster"]

T = TypeVar("T")

log = logging.getLogger("oip_host")

PREFIX = "oip"
"""The prefix of the names of a host's applications; the id of its job follows."""


class Application(NamedTuple):
    """How one application of Ray Serve is."""

    status: str
    """A name of Ray Serve's `ApplicationStatus`; NOT_STARTED where there is none."""
    running: int
    """How many of its replicas run."""
    message: str


class Cluster:
    """The Ray of one host. Its methods may be called on any event loop.

    `address` is that of a cluster to join, which has its token in `token_file` or where
    Ray itself looks for it; without one the host starts its own.
    """

    def __init__(
        self, address: str | None = None, token_file: str | None = None
    ) -> None:
        self.address = address
        self._token_file = token_file
        self._cpus = 0.0
        self._changing = threading.Lock()
        """Held while Ray is started, deploys or is stopped."""
        self._state_lock = threading.Lock()
        self._states: Future[dict[str, Application]] | None = None
        self._started = False
        self._prefix = ""
        self.on_joined: Callable[[], Any] = lambda: None
        """Called once, in another thread, when Ray is there."""
        self._head: ray_join.Head | None = None
        self.otel: dict[str, str] | None = None
        """The variables of OpenTelemetry for replicas of a host that traces."""

    def expect(self, cpus: float) -> None:
        """Let the host's own Ray, when it starts, offer so many CPUs more."""
        self._cpus += cpus

    # -- applications ---------------------------------------------------------

    async def deploy(
        self,
        name: str,
        replica: Any,
        options: Mapping[str, Any],
        argument: Any,
    ) -> Any:
        """Deploy replicas as an application, and return the handle to call them by.

        `replica` is a class, or a deployment of Ray Serve. Returns before they run.
        """
        return await _await_in_thread(self._deploy, name, replica, options, argument)

    def _deploy(
        self, name: str, replica: Any, options: Mapping[str, Any], argument: Any
    ) -> Any:
        with self._changing:
            self._start()
            return self._run(name, replica, options, argument)

    def _run(
        self, name: str, replica: Any, options: Mapping[str, Any], argument: Any
    ) -> Any:
        from ray import serve

        self._reject_impossible(options.get("ray_actor_options") or {})
        if isinstance(replica, type):
            replica = serve.deployment(replica)
        deployment = replica.options(
            name=name, logging_config=ray_join.QUIET, **options
        )
        target = serve.RunTarget(
            deployment.bind(argument), name=self._prefix + name, route_prefix=None
        )
        (handle,) = serve.run_many(
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        return handle

    async def state(self, name: str) -> Application:
        """Return how an application is.

        Callers at the same time wait for the same answer: a Ray in trouble may never
        give one.
        """
        with self._state_lock:
            if self._states is None or self._states.done():
                self._states = _run_in_thread(_applications)
            states = self._states
        applications = await asyncio.shield(asyncio.wrap_future(states))
        return applications.get(self._prefix + name, Application("NOT_STARTED", 0, ""))

    async def delete(self, name: str) -> None:
        """Let the replicas of an application unload and end, and wait for that."""
        if not await _await_in_thread(self._delete, name):
            return
        while (await self.state(name)).status != "NOT_STARTED":  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # Ray has no event for it

    def _delete(self, name: str) -> bool:
        """Delete an application; False where there is no Ray, which is not started."""
        with self._changing:  # it may be about to be deployed
            if self._started:
                from ray import serve

                serve.delete(self._prefix + name, _blocking=False)
            return self._started

    # -- Ray itself -----------------------------------------------------------

    def _start(self) -> None:
        """Join a Ray, once."""
        if self._started:
            return
        job = self._start_own() if self.address is None else self._join(self.address)
        # a name that no other host has in the cluster, also none that joins it later
        self._prefix = f"{PREFIX}-{job}-"
        self.on_joined()
        ray_join.start_serve()
        self._started = True
        if self.address is not None:
            self._clear_up()

    def _join(self, address: str) -> str:
        return ray_join.join(address, self._token_file)

    def _start_own(self) -> str:
        """Start a Ray of the host's own and join it, at the second try if need be."""
        cpus = max(os.cpu_count() or 1, math.ceil(self._cpus))
        try:
            self._head, address = ray_join.start_head(cpus)
            return self._join(address)
        except ModelNotReady as error:
            log.warning("%s; retrying", error)
            ray_join.end(self._head)
        self._head, address = ray_join.start_head(cpus)
        return self._join(address)

    def _clear_up(self) -> None:
        """Delete the applications of hosts that joined the cluster and were killed."""
        from ray import serve
        from ray._private import state

        jobs: list[dict[str, Any]] = state.jobs()  # type: ignore[no-untyped-call]
        ended = {job["JobID"] for job in jobs if job["IsDead"]}
        for name in serve.status().applications:
            prefix, *job = name.split("-")[:2]
            if prefix == PREFIX and ended.intersection(job):
                log.warning("deleting replicas left behind by a dead host: %s", name)
                serve.delete(name, _blocking=False)

    def _reject_impossible(self, wanted: Mapping[str, Any]) -> None:
        """Reject resources that the host's own Ray will never have."""
        if self.address is not None:
            return
        import ray

        offered: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        needed = {"GPU": wanted.get("num_gpus") or 0, **(wanted.get("resources") or {})}
        for name, amount in needed.items():
            if amount > offered.get(name, 0.0):
                raise ModelNotReady(
                    f"a replica needs {amount:g} of '{name}', and the host's own Ray "
                    f"has {offered.get(name, 0.0):g}; join a cluster with ray_address"
                )

    async def stop(self) -> None:
        """Leave the cluster, and end it if it is the host's own."""
        if self._started or self._head is not None:
            await _await_in_thread(self._stop)

    def _stop(self) -> None:
        with self._changing:
            self._started = False
            head, self._head = self._head, None
            ray_join.end(head)


def _applications() -> dict[str, Application]:
    """All applications of Ray Serve, by name."""
    from ray import serve
    from ray.serve._private.common import ReplicaState

    applications = {}
    for name, found in serve.status().applications.items():
        states = [each.replica_states for each in found.deployments.values()]
        running = sum(state.get(ReplicaState.RUNNING, 0) for state in states)
        messages = [found.message, *(d.message for d in found.deployments.values())]
        applications[name] = Application(
            found.status.value, running, "\n".join(messages)
        )
    return applications


async def _await_in_thread(function: Callable[..., T], *args: Any) -> T:
    """Return what a function returns that may wait for long."""
    return await asyncio.shield(asyncio.wrap_future(_run_in_thread(function, *args)))


def _run_in_thread(function: Callable[..., T], *args: Any) -> Future[T]:
    """Run a function in a thread of its own, which the host does not wait for to end.

    Ray waits for minutes for what is not there.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = function(*args)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="ray", daemon=True).start()
    return future
