"""Handlers that take and return numpy arrays."""

from __future__ import annotations

import time

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelHandler,
    ModelMetadataResponse,
    ResponseOutput,
)


class Arrays(ModelHandler):
    """A handler that computes with arrays, after a pause."""

    pause_s = 0.0

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Compute y = 2x + 1."""
        x = payload.inputs[0].as_numpy()
        if self.pause_s:
            time.sleep(self.pause_s)
        output = ResponseOutput.from_numpy("y", 2 * x + 1)
        return InferenceResponse(model_name=model_name, outputs=[output])

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Describe one input and one output of any size."""
        x = MetadataTensor(name="x", datatype=Datatype.FP32, shape=[-1, -1])
        y = MetadataTensor(name="y", datatype=Datatype.FP32, shape=[-1, -1])
        return ModelMetadataResponse(
            name=model_name, platform="numpy", inputs=[x], outputs=[y]
        )

    def model_load(self, model_name: str) -> bool:
        """Do nothing: there is nothing to load."""
        return True


class FixedCost(Arrays):
    """A call takes 5 ms, however many rows: what batching is for."""

    pause_s = 0.005


class Sleeper(Arrays):
    """A call blocks its thread for 0.1 s."""

    pause_s = 0.1


class Counter(Arrays):
    """A call counts for 10 to 15 ms in plain Python, which holds its lock."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Compute y = 2x + 1."""
        count = 0
        while count < 400_000:
            count += 1
        return super().infer(payload, model_name, model_version)
