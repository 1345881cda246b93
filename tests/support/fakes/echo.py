"""The base of most other handlers: it answers with its inputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelHandler,
    ModelMetadataResponse,
    RequestInput,
    ResponseOutput,
)

FOREVER_S = 600.0
"""More than any test waits: its server ends before it."""
PAUSE_S = 0.005


def as_output(tensor: RequestInput) -> ResponseOutput:
    """Return the same tensor as an output."""
    return ResponseOutput(
        name=tensor.name,
        shape=tensor.shape,
        datatype=tensor.datatype,
        parameters=tensor.parameters,
        data=tensor.data,
    )


class Echo(ModelHandler):
    """Answers with its inputs as outputs, parameters included."""

    inputs: tuple[tuple[str, Datatype, list[int]], ...] = (
        ("x", Datatype.FP32, [-1, 2]),
    )
    """Its inputs, by which it describes its outputs too."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        return InferenceResponse(
            model_name=model_name,
            parameters=payload.parameters,
            outputs=[as_output(tensor) for tensor in payload.inputs],
        )

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        tensors = [
            MetadataTensor(name=name, datatype=datatype, shape=shape)
            for name, datatype, shape in self.inputs
        ]
        return ModelMetadataResponse(
            name=model_name, platform="test", inputs=tensors, outputs=tensors
        )

    def model_load(self, model_name: str) -> bool:
        return True


def wait_while(condition: Callable[[], bool]) -> None:
    """Block for as long as the condition holds."""
    end = time.monotonic() + FOREVER_S
    while condition() and time.monotonic() < end:
        time.sleep(PAUSE_S)


async def wait_on_loop_while(condition: Callable[[], bool]) -> None:
    """Wait on the event loop for as long as the condition holds."""
    end = time.monotonic() + FOREVER_S
    while condition() and time.monotonic() < end:  # noqa: ASYNC110  # it is a file
        await asyncio.sleep(PAUSE_S)
