"""Handlers that are held while requests pile up, served as `fakes.held:Name`.

They and the tests share the directory named in LOAD_DIR: a model's calls wait while
`<model>.shut` exists, and each one adds a line to `<model>.ran`. A test uses both
through a `Gate`.
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
    """The calls of a model as a test sees and holds them."""

    def __init__(self, directory: Path, model: str) -> None:
        self.model = model
        self._shut = directory / f"{model}.shut"
        self._ran = directory / f"{model}.ran"

    def shut(self) -> None:
        """Hold calls from now on."""
        self._shut.touch()

    def open(self) -> None:
        """Let the calls go on."""
        self._shut.unlink(missing_ok=True)

    @property
    def is_shut(self) -> bool:
        return self._shut.exists()

    @property
    def ran(self) -> list[str]:
        """Return the names of the requests that the handler got, in order."""
        return self._ran.read_text().split() if self._ran.exists() else []

    def note(self, names: list[str]) -> None:
        """Record a call with one request or a batch of requests."""
        with self._ran.open("a") as file:
            file.write("".join(f"{name}\n" for name in names))


class Held(Echo):
    """Answers with its input when the gate is open."""

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
    """`Held` as a coroutine, which can be cancelled."""

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
    """Answers the server's memory blocks and the garbage just collected.

    Both are Python's own counts, the blocks after the collection.
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
    """Record every request of a call and return the model's gate."""
    gate = Gate(Path(os.environ["LOAD_DIR"]), model)
    gate.note([element.decode() for element in payload.inputs[0].as_numpy().flat])
    return gate
