"""Changing the registry while it serves: index, load, reload and unload of models.

These are the calls of Triton's `extension_model_repository.md`. The option
`oip_model_control` decides who may change anything: `none` allows the index only.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterable
from typing import Any

from oip_handler.errors import Forbidden, InvalidRequest, ModelNotReady
from oip_host.models.model import Model
from oip_host.models.registry import Registry

__all__ = ["Repository"]


class Repository:
    """Loads and unloads the models of a registry by name, all versions at once."""

    def __init__(self, registry: Registry, control: str) -> None:
        self._registry = registry
        self._control = control
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changes: set[asyncio.Task[None]] = set()

    def index(self, ready: bool = False) -> list[dict[str, str]]:
        """Return each model version with state and reason; with `ready` those only."""
        return [
            {
                "name": model.name,
                "version": model.version,
                "state": model.state.value,
                "reason": model.reason,
            }
            for model in self._registry
            if model.ready or not ready
        ]

    async def load(self, name: str, parameters: Iterable[str] = ()) -> None:
        """Load a model, or load it anew.

        While it is loaded anew the present one answers, and it goes on doing so where
        the new one does not load. Raises ModelNotFound, Forbidden, and ModelNotReady
        with the reason of a failed load. Triton's parameters, which bring another
        configuration or file, are an InvalidRequest: a handler has its settings.
        """
        self.check(name, parameters)
        await self.complete(self._load(name))

    async def _load(self, name: str) -> None:
        async with self._locks[name]:
            models = self._registry.find_versions(name)
            failures = [await self._reload(model) for model in models]
        reasons = [str(failure) for failure in failures if failure is not None]
        if reasons:
            raise ModelNotReady("; ".join(reasons))

    async def _reload(self, model: Model) -> ModelNotReady | None:
        """Load the model anew; returns why it failed, or None."""
        await model.wait_until_settled()  # it may still load as the server starts
        fresh = model.copy_unloaded()
        if fresh is None:  # a handler that a program made: there is only this one
            if model.ready:
                await model.unload_handler()
            await model.load_handler()
            return None if model.ready else model.not_ready()
        await fresh.load_handler()
        failure = None if fresh.ready else fresh.not_ready()
        if failure is None or not model.ready:
            observer = model.retire(fresh)
            self._registry.add(fresh)
            fresh.observe(observer)
            await model.unload_handler()
        else:
            fresh.release()
        return failure

    async def unload(self, name: str) -> None:
        """Unload every version of a model, once its requests in flight are answered.

        Raises ModelNotFound and Forbidden.
        """
        self.check(name)
        await self.complete(self._unload(name))

    async def _unload(self, name: str) -> None:
        async with self._locks[name]:
            versions = self._registry.find_versions(name)
            await asyncio.gather(*(model.unload_handler() for model in versions))

    def check(self, name: str, parameters: Iterable[str] = ()) -> None:
        """Check that the option lets clients change this model, and that it exists.

        Raises what `load` and `unload` refuse with before they change anything.
        """
        if self._control != "explicit":
            raise Forbidden(
                f"model '{name}' cannot be loaded or unloaded: oip_model_control is "
                f"'{self._control}', expected 'explicit'"
            )
        self._registry.find(name)
        for parameter in parameters:
            raise InvalidRequest(
                f"parameters: found '{parameter[:100]}', expected none: "
                "a model is loaded with the host's own configuration"
            )

    async def complete(self, change: Coroutine[Any, Any, None]) -> None:
        """Finish a change, also where the client who requested it leaves."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)
