"""Handlers that record their calls, served as `fakes.batches:Name`.

The files in the directory named in BATCH_DIR are named for the model: `<model>.calls`
has a line for each call, and a call waits as long as `<model>.shut` exists.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    ModelReadyResponse,
    ResponseOutput,
)

from .echo import Echo, wait_on_loop_while, wait_while

ACCIDENTS: dict[float, Callable[[], BaseException]] = {
    -1: partial(ValueError, "a number is negative"),
    -2: partial(RuntimeError, "a secret of the handler"),
    -3: SystemExit,
    -4: StopIteration,
    -5: MemoryError,
    -6: asyncio.CancelledError,
}
"""What is raised where the first input has one of these numbers."""


class Calls:
    """The calls of a model as a test sees and controls them."""

    def __init__(self, directory: Path, model: str) -> None:
        self._file = directory / f"{model}.calls"
        self._shut = directory / f"{model}.shut"

    def shut(self) -> None:
        """Hold calls in the handler from now on."""
        self._shut.touch()

    def open(self) -> None:
        """Let the calls go on."""
        self._shut.unlink(missing_ok=True)

    @property
    def are_held(self) -> bool:
        return self._shut.exists()

    def note(self, payload: InferenceRequest) -> None:
        """Record the elements of a call's first input."""
        elements = payload.inputs[0].as_numpy().ravel().tolist()
        plain = [
            e.decode(errors="replace") if isinstance(e, bytes) else e for e in elements
        ]
        with self._file.open("a") as file:
            file.write(f"{json.dumps(plain)}\n")

    @property
    def made(self) -> list[list[Any]]:
        """Return the elements of each call, in the order of the calls."""
        text = self._file.read_text() if self._file.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in lines]

    @property
    def elements(self) -> list[Any]:
        """Return the elements of all calls."""
        return [element for call in self.made for element in call]


def begin(payload: InferenceRequest, model_name: str) -> Calls:
    """Record a call and return the calls, whose `are_held` it waits for."""
    calls = Calls(Path(os.environ["BATCH_DIR"]), model_name)
    calls.note(payload)
    return calls


class Batched(Echo):
    """Answers with its inputs and parameters; some numbers raise errors."""

    inputs = (("x", Datatype.FP32, [-1, 1]),)

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        calls = begin(payload, model_name)
        wait_while(lambda: calls.are_held)
        return self.answer(payload, model_name)

    def answer(self, payload: InferenceRequest, model_name: str) -> InferenceResponse:
        first = payload.inputs[0].as_numpy()
        for number, accident in ACCIDENTS.items():
            if first.dtype != object and (first == number).any():
                raise accident()
        outputs = [
            ResponseOutput.from_numpy(tensor.name, tensor.as_numpy())
            for tensor in payload.inputs
        ]
        return InferenceResponse(
            model_name=model_name, parameters=payload.parameters, outputs=outputs
        )


class BatchedAsync(Batched):
    """`Batched` with coroutines; `<model>.cancelled` exists after a cancelled call."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        calls = begin(payload, model_name)
        try:
            await wait_on_loop_while(lambda: calls.are_held)
        except asyncio.CancelledError:
            (Path(os.environ["BATCH_DIR"]) / f"{model_name}.cancelled").touch()
            raise
        return self.answer(payload, model_name)


class Mean(Batched):
    """Answers one row, the mean, for any number of rows."""

    def answer(self, payload: InferenceRequest, model_name: str) -> InferenceResponse:
        mean = payload.inputs[0].as_numpy().mean(axis=0, keepdims=True)
        output = ResponseOutput.from_numpy("mean", np.asarray(mean))
        return InferenceResponse(model_name=model_name, outputs=[output])


class Probed(Batched):
    """Has a `model_ready` that a test can hold like the other calls."""

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        calls = Calls(Path(os.environ["BATCH_DIR"]), f"{model_name}-ready")
        wait_while(lambda: calls.are_held)
        return ModelReadyResponse(name=model_name, ready=True)
