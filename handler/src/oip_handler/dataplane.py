"""A handler in process, without a server: check, call, check.

It is aiSSEMBLE's `DataplaneHandler`, and itself a handler: what subclasses it is hosted
like any other.
"""

from __future__ import annotations

from oip_handler.handler import DefaultModelHandler, ModelHandler
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
    ModelReadyResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)

__all__ = ["DataplaneHandler"]


class DataplaneHandler:
    """Calls one handler as the host would, with its checks on both sides."""

    def __init__(self, model_handler: ModelHandler | None = None) -> None:
        self.model_handler = model_handler or DefaultModelHandler()

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """The handler's answer; ValueError or TypeError where a tensor does not fit."""
        payload.validate_oip()
        response = self.model_handler.infer(payload, model_name, model_version)
        response.validate_oip()
        return response

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """The handler's description of the model."""
        return self.model_handler.model_metadata(model_name, model_version)

    def model_load(self, model_name: str) -> bool:
        """Whether the handler loaded the model."""
        return self.model_handler.model_load(model_name)

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Whether the handler's model can answer."""
        return self.model_handler.model_ready(model_name, model_version)

    def server_ready(self) -> ServerReadyResponse:
        """Always live: there is no server here."""
        return ServerReadyResponse(live=True)

    def server_live(self) -> ServerLiveResponse:
        """Always live: there is no server here."""
        return ServerLiveResponse(live=True)

    def server_metadata(self) -> ServerMetadataResponse:
        """A stub, as upstream gives it."""
        return ServerMetadataResponse(
            name="Inference Server", version="1.0", extensions=[]
        )
