"""What both edges tell of the server: its description, and whether it is ready."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from oip_host.registry import Registry
from oip_host.repository import Repository

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
    """One answer for both protocols at every moment, also while the server stops."""

    def __init__(self, registry: Registry, control: str) -> None:
        self.registry = registry
        self.repository = Repository(registry, control)
        self.draining = False
        """Set when the server is told to stop: it is not ready from then on."""
        self.stopping = asyncio.Event()
        """Set when the drain delay is over: no call that has no end goes on."""

    async def unready(self) -> list[str]:
        """Why the server is not ready, a line for each reason; empty when it is."""
        if self.draining:
            return ["the server is shutting down"]
        return await self.registry.unready()

    def metadata(self) -> dict[str, Any]:
        """The server's name, version and the protocol extensions that it serves."""
        return {
            "name": "oip-host",
            "version": version("oip-host"),
            "extensions": EXTENSIONS,
        }
