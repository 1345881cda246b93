"""Changing the registry while it serves: index, load, reload and unload of models.

These are the calls of Triton's `extension_model_repository.md`. The option
`oip_model_control` decides who may change anything: `none` allows the index only.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from oip_host.errors import Forbidden, ModelNotReady
from oip_host.model import AissembleOIPKServe
from oip_host.registry import Registry

__all__ = ["Repository"]


class Repository:
    """Loads and unloads the models of a registry by name, all versions at once."""

    def __init__(self, registry: Registry, control: str) -> None:
        self._registry = registry
        self._control = control
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def index(self, ready: bool = False) -> list[dict[str, str]]:
        """Each model version with its state and reason; with `ready` those only."""
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

    async def load(self, name: str) -> None:
        """Load a model, or load it anew.

        While it is loaded anew the present one answers, and it goes on doing so where
        the new one does not load. Raises ModelNotFound, Forbidden, and ModelNotReady
        with the reason of a failed load.
        """
        async with self._allowed(name):
            failed = []
            for model in self._registry.all_of(name):
                loaded = await self._reloaded(model)
                if not loaded.ready:
                    failed.append(loaded)
            if failed:
                raise ModelNotReady("; ".join(str(m.not_ready()) for m in failed))

    async def _reloaded(self, model: AissembleOIPKServe) -> AissembleOIPKServe:
        fresh = model.fresh()
        if fresh is None:  # a handler that a program made: there is only this one
            if model.ready:
                await model.unload_handler()
            await model.load_handler()
            return model
        await fresh.load_handler()
        if fresh.ready or not model.ready:
            observer = model.retire()
            self._registry.add(fresh)
            fresh.observe(observer)
            await model.unload_handler()
        return fresh

    async def unload(self, name: str) -> None:
        """Unload every version of a model, once its requests in flight are answered.

        Raises ModelNotFound and Forbidden.
        """
        async with self._allowed(name):
            versions = self._registry.all_of(name)
            await asyncio.gather(*(model.unload_handler() for model in versions))

    def _allowed(self, name: str) -> Any:
        """The lock of a model, where the option lets anybody change it."""
        if self._control != "explicit":
            raise Forbidden(
                f"model '{name}' cannot be loaded or unloaded: oip_model_control is "
                f"'{self._control}', expected 'explicit'"
            )
        self._registry.find(name)
        return self._locks[name]
