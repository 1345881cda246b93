"""Handlers whose lives the tests direct, served as `fakes.lives:Name`.

The directory named in LIFE_DIR holds the tests' wishes and what became of them; its
files are named for the model: `<model>.fail`, `<model>.hold`, `<model>.ill` are wishes,
`<model>.loading` and `<model>.unloaded` tell what was called.
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
    """The file of a wish or of an event."""
    return Path(os.environ["LIFE_DIR"]) / f"{model}.{what}"


class Fickle(Echo):
    """Tells in its answers which instance it is, and how many of them there are.

    It does not load while `fail` is there, takes as long as `hold` is there, and adds a
    line to `unloaded` when it is unloaded. A BYTES input names a gate to wait at.
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
    """The same on an event loop of its own."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        return Fickle.infer(self, payload, model_name, model_version)


class Moody(Fickle):
    """Says that it is not ready while `ill` is there."""

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        ready = not life(model_name, "ill").exists()
        return ModelReadyResponse(name=model_name, ready=ready)
