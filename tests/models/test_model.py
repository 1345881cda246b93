"""One model between its callers and its handler."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    RequestInput,
    ResponseOutput,
    TensorData,
)
from oip_host.config.model_options import ModelOptions
from oip_host.model_server import AissembleOIPKServe
from support.fakes import Echo


class Reuses(Echo):
    """A handler that reuses its memory, as a runtime with bound outputs does."""

    def __init__(self) -> None:
        self.memory = np.zeros((1, 1), np.float32)

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        rows = payload.inputs[0].as_numpy()
        if self.memory.shape != rows.shape:
            self.memory = np.zeros(rows.shape, np.float32)
        self.memory[:] = rows
        output = ResponseOutput.from_numpy("y", self.memory)
        return InferenceResponse(model_name=model_name, outputs=[output])


class ReusesAsync(Reuses):
    """The same in a coroutine."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        await asyncio.sleep(0)
        return super().infer(payload, model_name, model_version)


def asked(value: float) -> InferenceRequest:
    data = TensorData(np.array([value], np.float32))
    tensor = RequestInput(name="x", shape=[1, 1], datatype=Datatype.FP32, data=data)
    return InferenceRequest(inputs=[tensor], outputs=[])


def value_of(_: InferenceRequest, response: InferenceResponse) -> float:
    return float(response.outputs[0].as_numpy()[0, 0])


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("handler", [Reuses, ReusesAsync])
async def test_handler_may_reuse_the_memory_of_its_outputs(
    handler: type[Any], batch: int
) -> None:
    """An answer is encoded before the next call can overwrite it."""
    options = ModelOptions(max_batch_size=batch, max_concurrency=1)
    model = AissembleOIPKServe("m", handler(), options=options)
    assert await model.load_handler()
    asking = (model.infer_encoded(asked(n), value_of) for n in range(200))
    assert list(range(200)) == await asyncio.gather(*asking)
    await model.unload_handler()
