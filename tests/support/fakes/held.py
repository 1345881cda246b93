"""Handlers that are held while requests pile up, served as `fakes.held:Name`.

The directory named in LOAD_DIR is what they and the tests share: a model's calls wait
while `<model>.shut` is there, and each one adds a line to `<model>.ran`. A test sees
both through a `Gate`.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import numpy as np

from oip_host import Datatype, InferenceRequest, InferenceResponse, ResponseOutput

from .echo import Echo, wait_on_loop_while, wait_while


class Gate:
    """What a test knows of a model's calls, and how it holds them."""

    def __init__(self, directory: Path, model: str) -> None:
        self.model = model
        self._shut = directory / f"{model}.shut"
        self._ran = directory / f"{model}.ran"

    def shut(self) -> None:
        """Have calls wait from now on."""
        self._shut.touch()

    def open(self) -> None:
        """Let them go."""
        self._shut.unlink(missing_ok=True)

    @property
    def is_shut(self) -> bool:
        return self._shut.exists()

    @property
    def ran(self) -> list[str]:
        """The names of the requests that the handler was called with, as they came."""
        return self._ran.read_text().split() if self._ran.exists() else []

    def note(self, names: list[str]) -> None:
        """The handler was called, with a request or with a batch of them."""
        with self._ran.open("a") as file:
            file.write("".join(f"{name}\n" for name in names))


class Held(Echo):
    """Answers its input when the gate is open."""

    inputs = (("x", Datatype.BYTES, [-1]),)

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        gate = entered(payload, model_name)
        wait_while(lambda: gate.is_shut)
        return super().infer(payload, model_name, model_version)


class HeldAsync(Held):
    """The same as a coroutine, which can be cancelled."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        gate = entered(payload, model_name)
        await wait_on_loop_while(lambda: gate.is_shut)
        return Echo.infer(self, payload, model_name, model_version)


class Census(Held):
    """Answers what the server has: blocks of memory, and garbage that it had.

    The one is Python's own count after a collection, the other what that has found.
    """

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        garbage = gc.collect()
        counts = np.array([sys.getallocatedblocks(), garbage], np.int64)
        output = ResponseOutput.from_numpy("counts", counts)
        return InferenceResponse(model_name=model_name, outputs=[output])


def entered(payload: InferenceRequest, model: str) -> Gate:
    """The model's gate, where every request of the call has been noted."""
    gate = Gate(Path(os.environ["LOAD_DIR"]), model)
    gate.note([element.decode() for element in payload.inputs[0].as_numpy().flat])
    return gate
