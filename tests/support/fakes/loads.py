"""Handlers that load late or fail to load, and one that records its unload."""

from __future__ import annotations

import os
from pathlib import Path

from oip_host import ModelReadyResponse

from .echo import Echo, wait_while


class SlowLoad(Echo):
    """Loads when the file named in the variable SLOW_LOAD_GATE exists."""

    def model_load(self, model_name: str) -> bool:
        gate = Path(os.environ["SLOW_LOAD_GATE"])
        wait_while(lambda: not gate.exists())
        return True


class LoadFalse(Echo):
    """Returns False from its load."""

    def model_load(self, model_name: str) -> bool:
        return False


class LoadRaises(Echo):
    """Raises while it loads."""

    def model_load(self, model_name: str) -> bool:
        raise RuntimeError("no weights here")


class InitRaises(Echo):
    """Raises in its constructor."""

    def __init__(self) -> None:
        raise RuntimeError("cannot be made")


class NoHandler:
    """A class that is no handler."""


class NotHealthy(Echo):
    """Loads, and then reports that it is not ready."""

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        return ModelReadyResponse(name=model_name, ready=False)


class Unloads(Echo):
    """Writes a line to the file named in UNLOAD_FILE when it is unloaded."""

    def model_unload(self, model_name: str) -> None:
        with open(os.environ["UNLOAD_FILE"], "a") as file:
            file.write(f"{model_name}\n")
