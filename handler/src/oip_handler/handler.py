"""The contract between a plugin author and the host, on one screen.

A handler is any object with these methods; inheriting from `ModelHandler` is usual and
not required. Methods may be plain or `async def`. Plain ones run in threads of the
model's own, one call at a time unless `max_concurrency` says otherwise; `async def`
ones run on an event loop of the model's own. Raise ValueError, TypeError or
`oip_host.InvalidRequest` where the request is wrong; whatever else is raised is the
handler's fault and reaches the client without its text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
    ModelReadyResponse,
)

__all__ = ["DefaultModelHandler", "ModelHandler"]


class ModelHandler(ABC):
    """One kind of model. The host makes one instance for each model that it serves.

    Optional attributes of the class: `Settings`, a pydantic model whose instance the
    host passes as `settings=`; `max_concurrency`, how many calls may run at once;
    `idempotent`, whether a request may be asked again where a replica died with it.
    """

    @abstractmethod
    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Answer a request whose tensors fit their own shapes and datatypes."""

    @abstractmethod
    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Describe the loaded model; asked once after each load."""

    @abstractmethod
    def model_load(self, model_name: str) -> bool:
        """Load the model; False or an exception leaves it unavailable."""

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Tell whether the loaded model can answer now."""
        return ModelReadyResponse(name=model_name, ready=True)

    def model_unload(self, model_name: str) -> None:
        """Let go of what `model_load` took."""
        return


class DefaultModelHandler(ModelHandler):
    """A handler that implements nothing; every call raises NotImplementedError."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        raise NotImplementedError("this handler has no infer")

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        raise NotImplementedError("this handler has no model_metadata")

    def model_load(self, model_name: str) -> bool:
        raise NotImplementedError("this handler has no model_load")
