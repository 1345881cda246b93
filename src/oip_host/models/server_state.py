"""The state of the server as a whole, as both edges report and change it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from oip_handler.errors import ModelNotFound, ModelNotReady
from oip_host.models.registry import Registry
from oip_host.models.repository import Repository

__all__ = ["EXTENSIONS", "ServerState"]

EXTENSIONS = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
]
"""The protocol extensions that are served, under Triton's names."""


class ServerState:
    """One answer for both protocols at every moment, also while the server stops.

    This is that of a process by itself; `SharedState` is that of several.
    """

    def __init__(self, registry: Registry, control: str) -> None:
        self.registry = registry
        self.repository = Repository(registry, control)
        self.draining = False
        """Set when the server is told to stop: it is not ready from then on."""
        self.stopping = asyncio.Event()
        """Set when the drain delay is over: no call that has no end goes on."""

    async def start(self) -> None:
        """Start what has to run before any model loads."""

    async def close(self) -> None:
        """End it, when the last request has been answered."""

    def stays_unloaded(self, name: str) -> bool:
        """Return whether a model was unloaded before this process began."""
        return False

    async def unready(self) -> list[str]:
        """Return why the server is not ready, a line for each reason; empty: it is."""
        if self.draining:
            return ["the server is shutting down"]
        return await self.registry.unready()

    async def check_ready(self, name: str, version: str | None = None) -> None:
        """Raise ModelNotReady with the reason, or ModelNotFound."""
        model = self.registry.find(name, version)
        if not await model.healthy():
            raise model.not_ready()

    async def health(self, discreet: bool) -> list[str]:
        """Return `unready`; to clients that may not know reasons, only that it is."""
        reasons = await self.unready()
        return ["the server is not ready"] if reasons and discreet else reasons

    async def model_health(
        self, name: str, version: str | None, discreet: bool
    ) -> None:
        """Do as `check_ready`; clients that may not know reasons get none.

        An unknown model is then as one that is not ready.
        """
        try:
            await self.check_ready(name, version)
        except (ModelNotFound, ModelNotReady):
            if not discreet:
                raise
            raise ModelNotReady(f"model '{name}' is not ready") from None

    async def index(self, ready: bool = False) -> list[dict[str, str]]:
        """See `Repository.index`."""
        return self.repository.index(ready)

    async def load(self, name: str, parameters: Iterable[str] = ()) -> None:
        """See `Repository.load`."""
        await self.repository.load(name, parameters)

    async def unload(self, name: str) -> None:
        """See `Repository.unload`."""
        await self.repository.unload(name)

    async def statistics(
        self, name: str, version: str | None = None
    ) -> list[dict[str, Any]]:
        """See `Registry.statistics`."""
        return self.registry.statistics(name, version)

    async def metrics(self) -> Collector:
        """Return what has the metrics for Prometheus."""
        return REGISTRY

    def metadata(self) -> dict[str, Any]:
        """Return the server's name, version and protocol extensions."""
        return {
            "name": "oip-host",
            "version": version("oip-host"),
            "extensions": EXTENSIONS,
        }
