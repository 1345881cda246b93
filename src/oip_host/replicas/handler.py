"""A handler whose calls are answered by replicas in Ray Serve.

To its model it is a handler like any other, with `async def` methods; its calls are
answered by a `Replica`. Batches, checks, limits and statistics stay in the host.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from dataclasses import replace
from typing import Any

from oip_handler.errors import HandlerFault, ModelNotReady
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
    ModelReadyResponse,
)
from oip_handler.traits import read_traits
from oip_host.config.model_options import ModelOptions
from oip_host.replicas.cluster import Cluster
from oip_host.replicas.replica import (
    Blueprint,
    Description,
    Failure,
    NotLoaded,
    Replica,
)
from oip_host.telemetry.context import REQUEST_ID, current

__all__ = ["Replicated", "deployment_options"]

log = logging.getLogger("oip_host")

CHECK_EVERY_S = 0.1
"""Seconds between two checks of replicas that start."""
LOG_EVERY_S = 30.0
"""Seconds between two lines of the log on replicas that have not started."""
STATE_S = 0.8
"""Seconds that Ray has to report its replicas; a probe has little more."""
TRIES = 3
"""How often a request to an idempotent handler is tried where replicas die."""
RETRY_S = 0.1
"""Seconds until the next try."""
ON_THE_WAY = 3
"""Requests of a replica beyond those that it runs, so that it is never without one."""
ASYNC_REQUESTS = 100
"""Requests at once of a replica whose handler is async and says nothing itself."""


def deployment_options(handler: Any, options: ModelOptions) -> dict[str, Any]:
    """Return the arguments of Ray Serve's `Deployment.options` for a model."""
    chosen: dict[str, Any] = {
        "max_ongoing_requests": options.max_ongoing_requests
        or _request_limit(handler, options) + ON_THE_WAY,
        "max_constructor_retry_count": 1,
        "health_check_period_s": 1,
        "graceful_shutdown_wait_loop_s": 0.1,
    }
    if options.autoscaling is None:
        chosen["num_replicas"] = options.replicas
    else:
        chosen["autoscaling_config"] = {
            "min_replicas": options.autoscaling.min,
            "max_replicas": options.autoscaling.max,
            "target_ongoing_requests": options.autoscaling.target,
            "upscale_delay_s": options.autoscaling.upscale_delay_s,
            "downscale_delay_s": options.autoscaling.downscale_delay_s,
        }
    environment = dict(options.runtime_env)
    if options.py_executable is not None:
        environment["py_executable"] = options.py_executable
    actor = {
        "num_cpus": options.num_cpus,
        "num_gpus": options.num_gpus,
        "resources": options.resources,
        "runtime_env": environment,
    }
    chosen["ray_actor_options"] = {
        k: v for k, v in actor.items() if v not in (None, {})
    }
    return chosen


def _request_limit(handler: Any, options: ModelOptions) -> int:
    """Return how many requests a replica runs at once, as far as the host knows."""
    traits = read_traits(handler)
    limit = options.max_concurrency or traits.max_concurrency
    return limit or (ASYNC_REQUESTS if "infer" in traits.async_methods else 1)


class Replicated:
    """Deploys replicas by a blueprint, and passes calls on to them."""

    elsewhere = True
    """Its `model_ready` is called beside its other calls, not between them."""

    def __init__(
        self,
        cluster: Cluster,
        blueprint: Blueprint,
        options: dict[str, Any],
        *,
        most_replicas: int,
        idempotent: bool | None = None,
        deployment: Any = None,
    ) -> None:
        self._cluster = cluster
        self._blueprint = blueprint
        self._options = options
        self._replica = Replica if deployment is None else deployment
        self._idempotent = idempotent
        self.max_concurrency = most_replicas * options["max_ongoing_requests"]
        # Ray takes no `#`; and a reload makes the new replicas beside the old ones
        name = re.sub(r"[^\w.-]", "_", f"{blueprint.model}-{blueprint.version}")
        self._name = f"{name}-{secrets.token_hex(4)}"
        self._handle: Any = None
        self._methods: dict[str, Any] = {}
        self._known: Description | None = None

    async def model_load(self, model_name: str) -> bool:
        """Deploy the replicas, and wait for them; raises ModelNotReady."""
        blueprint = replace(self._blueprint, otel=self._cluster.otel)
        try:
            self._handle = await self._cluster.deploy(
                self._name, self._replica, self._options, blueprint
            )
            await self._wait_until_running()
            known = await self._call("describe")
        except BaseException:
            await asyncio.shield(self._cluster.delete(self._name))
            raise
        self._known = known
        self.check_metadata = known.traits.checks_metadata
        if self._idempotent is None:
            self._idempotent = known.traits.is_idempotent
        if known.is_kserve_model:
            self.predict_v1 = self._predict_v1
        return True

    async def _wait_until_running(self) -> None:
        """Wait until as many replicas run as the options demand."""
        said_at = time.monotonic()
        while True:
            state = await self._cluster.state(self._name)
            if state.status == "RUNNING":
                return
            if state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise ModelNotReady(_reason(state.message))
            if time.monotonic() > said_at + LOG_EVERY_S:
                said_at = time.monotonic()
                log.warning(
                    "the replicas of model '%s' have not started yet: %s",
                    self._blueprint.model, state.message.strip(),
                )  # fmt: skip
            await asyncio.sleep(CHECK_EVERY_S)  # Ray has no event for it

    async def model_unload(self, model_name: str) -> None:
        """Let the replicas unload the handler and end."""
        await self._handle.shutdown_async()
        await self._cluster.delete(self._name)

    async def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Return whether a replica runs, and whatever the handler says itself."""
        assert self._known is not None
        try:
            state = await asyncio.wait_for(self._cluster.state(self._name), STATE_S)
        except Exception:  # whatever Ray raises where it is in trouble
            raise ModelNotReady("Ray does not report its replicas") from None
        if not state.running:
            raise ModelNotReady("none of its replicas runs")
        ready = not self._known.traits.has_own_probe or await self._call("ready")
        return ModelReadyResponse(name=model_name, ready=ready)

    async def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Return what the handler answered when it was loaded."""
        assert self._known is not None
        if isinstance(self._known.metadata, Failure):
            raise self._known.metadata.error()
        return self._known.metadata

    async def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Return the answer of a replica; raises OIPError."""
        context = current.get()
        headers = {}
        if context is not None:
            headers[REQUEST_ID] = context.id
            if context.span is not None:
                context.span.inject(headers)
        answer: InferenceResponse = await self._call("infer", payload, headers)
        return answer

    async def _predict_v1(self, body: Any, headers: dict[str, str], verb: Any) -> Any:
        context = current.get()
        if context is not None and context.span is not None:
            headers = dict(headers)  # the client's, with its own span in them
            context.span.inject(headers)
        return await self._call("predict_v1", body, headers, verb)

    async def _call(self, method: str, *args: Any) -> Any:
        """Return what a replica answers; may try again where one dies."""
        for left in reversed(range(TRIES if self._idempotent else 1)):
            try:
                answer = await self._call_once(method, *args)
            except _Died:
                if not left:
                    raise ModelNotReady(
                        f"a replica of model '{self._blueprint.model}' died while it "
                        "answered; ask again"
                    ) from None
                await asyncio.sleep(RETRY_S)
            else:
                if isinstance(answer, Failure):
                    raise answer.error()
                return answer
        raise AssertionError("the last try answers or raises")

    async def _call_once(self, method: str, *args: Any) -> Any:
        from ray import exceptions
        from ray.serve import exceptions as serve_exceptions

        response = self._method(method).remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except exceptions.RayTaskError as error:  # it has a traceback in its text
            log.error(
                "a replica of model '%s' failed", self._blueprint.model, exc_info=error
            )
            raise HandlerFault(
                f"model '{self._blueprint.model}' failed; the server's log has the "
                "reason"
            ) from None
        except (exceptions.RayError, serve_exceptions.RayServeException) as error:
            log.warning(
                "a replica of model '%s' died: %s",
                self._blueprint.model, type(error).__name__,
            )  # fmt: skip
            raise _Died from None

    def _method(self, name: str) -> Any:
        """Return the handle of a method, which Ray makes with metrics of its own."""
        if name not in self._methods:
            self._methods[name] = getattr(self._handle, name)
        return self._methods[name]


class _Died(Exception):
    """The replica that had the call died."""


def _reason(message: str) -> str:
    """Return why replicas failed to start: the handler's reason, else Ray's."""
    known = NotLoaded.reason(message)
    if known is not None:
        return known
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"its replicas failed to start: {lines[-1] if lines else 'Ray says nothing'}"
