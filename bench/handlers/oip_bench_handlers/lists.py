"""A handler as it is written for the aiSSEMBLE packages: Python lists in and out."""

from __future__ import annotations

import time

import numpy as np

from aissemble_open_inference_protocol_shared.handlers.model_handler import (
    ModelHandler,
)
from aissemble_open_inference_protocol_shared.types.dataplane import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelMetadataResponse,
    ResponseOutput,
    TensorData,
)


class Lists(ModelHandler):
    """A handler that reads and returns lists, after a pause."""

    pause_s = 0.0

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Compute y = 2x + 1."""
        tensor = payload.inputs[0]
        x = np.array(tensor.data.root, np.float32).reshape(tensor.shape)
        if self.pause_s:
            time.sleep(self.pause_s)
        y = 2 * x + 1
        output = ResponseOutput(
            name="y",
            shape=list(y.shape),
            datatype=Datatype.FP32,
            data=TensorData(root=y.ravel().tolist()),
        )
        return InferenceResponse(model_name=model_name, id=payload.id, outputs=[output])

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
