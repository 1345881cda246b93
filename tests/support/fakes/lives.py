"""Handlers whose lives the tests control, served as `fakes.lives:Name`.

The directory named in LIFE_DIR holds orders of the tests and records of calls; its
files are named for the model: `<model>.fail`, `<model>.hold` and `<model>.ill` are
orders, `<model>.loading` and `<model>.unloaded` are records.
"""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path
from typing import Any, ClassVar

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    ModelReadyResponse,
    Parameters,
)

from .echo import Echo, wait_while
from .gates import pass_gate


def life(model: str, what: str) -> Path:
    """Return the file of an order or of a record."""
    return Path(os.environ["LIFE_DIR"]) / f"{model}.{what}"


class Fickle(Echo):
    """Answers the number of its instance and, for the id `count`, of living ones.

    Its load fails while `fail` exists and waits while `hold` exists; its unload adds a
    line to `unloaded`. A BYTES input names a gate to wait at.
    """

    made = 0
    alive: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    def __init__(self) -> None:
        Fickle.made += 1
        self.generation = Fickle.made
        Fickle.alive.add(self)

    def model_load(self, model_name: str) -> bool:
        life(model_name, "loading").touch()
        wait_while(life(model_name, "hold").exists)
        if life(model_name, "fail").exists():
            raise RuntimeError("no weights today")
        return True

    def model_unload(self, model_name: str) -> None:
        with life(model_name, "unloaded").open("a") as file:
            file.write(f"{self.generation}\n")

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        if payload.inputs[0].datatype == Datatype.BYTES:
            pass_gate(payload.inputs[0].as_numpy().flat[0].decode())
        answer = super().infer(payload, model_name, model_version)
        told = {"generation": self.generation}
        if payload.id == "count":
            gc.collect()
            told["alive"] = len(Fickle.alive)
        answer.parameters = Parameters.model_validate(told)
        return answer


class FickleAsync(Fickle):
    """`Fickle` on its own event loop."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        return Fickle.infer(self, payload, model_name, model_version)


class Moody(Fickle):
    """Reports that it is not ready while `ill` exists."""

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        ready = not life(model_name, "ill").exists()
        return ModelReadyResponse(name=model_name, ready=ready)
