"""A `kserve.Model` as a handler, so that it is hosted beside handlers as it is."""

from __future__ import annotations

import inspect
from typing import Any

from oip_handler.datatypes import Datatype
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelMetadataResponse,
    ModelReadyResponse,
)
from oip_host.kserve.api import kserve
from oip_host.kserve.messages import request_to_kserve, response_from_kserve

__all__ = ["KServeModelHandler"]


class KServeModelHandler:
    """Calls one `kserve.Model` through its own pre- and postprocessing.

    The whole of `Model.__call__` runs on the lane's event loop, away from the server's;
    a plain `predict` blocks that loop, so only one call runs at a time unless every
    step is a coroutine function.
    """

    def __init__(self, model: kserve.Model) -> None:
        self.model = model
        steps = (model.preprocess, model.predict, model.postprocess)
        if not all(inspect.iscoroutinefunction(step) for step in steps):
            self.max_concurrency = 1

    def model_load(self, model_name: str) -> bool:
        """Load the model, unless its constructor did."""
        if not self.model.ready:
            self.model.load()
        if self.model.ready:
            self.model.start()
        return bool(self.model.ready)

    def model_unload(self, model_name: str) -> None:
        """Stop the model, as KServe does when it shuts down."""
        self.model.stop()

    async def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Return whether the model calls itself healthy."""
        return ModelReadyResponse(name=model_name, ready=await self.model.healthy())

    async def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Return the model's input and output types; without them empty lists."""
        return ModelMetadataResponse(
            name=model_name,
            platform="kserve",
            inputs=await _tensors(self.model.get_input_types),
            outputs=await _tensors(self.model.get_output_types),
        )

    async def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Return the answer to a V2 request."""
        answer = await self.model(request_to_kserve(payload, model_name), headers={})
        response = answer[0] if isinstance(answer, tuple) else answer
        return response_from_kserve(response, model_name)

    async def predict_v1(self, body: Any, headers: dict[str, str], verb: Any) -> Any:
        """Return the answer to a V1 request (`{"instances": …}`), with its headers."""
        return await self.model(body, headers=headers, verb=verb)


async def _tensors(types: Any) -> list[MetadataTensor]:
    tensors = types()
    if inspect.isawaitable(tensors):
        tensors = await tensors
    return [
        MetadataTensor(
            name=tensor["name"],
            datatype=Datatype(tensor["datatype"]),
            shape=tensor["shape"],
        )
        for tensor in tensors
    ]
