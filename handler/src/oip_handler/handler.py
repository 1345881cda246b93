"""The contract between a plugin author and the host, on one screen.

A handler is any object with these methods; inheriting from `ModelHandler` is usual and
not required. Methods may be plain or `async def`. Each model has its own threads for
plain methods, which run one call at a time unless `max_concurrency` allows more, and
its own event loop for `async def` methods. Raise ValueError, TypeError or
`oip_handler.InvalidRequest` if the request is wrong; anything else that a handler
raises is its own fault, and its text does not reach the client.
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
    `idempotent`, whether a request may be repeated after the replica that had it died;
    `check_metadata`, whether the host checks inputs against `model_metadata`.
    """

    @abstractmethod
    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Answer a request, whose tensors fit their shapes and datatypes."""

    @abstractmethod
    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Describe the loaded model; called once after each load."""

    @abstractmethod
    def model_load(self, model_name: str) -> bool:
        """Load the model; False or an exception leaves it unavailable."""

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Return whether the loaded model can answer now."""
        return ModelReadyResponse(name=model_name, ready=True)

    def model_unload(self, model_name: str) -> None:
        """Release what `model_load` acquired."""
        return


class DefaultModelHandler(ModelHandler):
    """A handler that implements nothing; every call raises NotImplementedError."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Raise NotImplementedError."""
        raise NotImplementedError("this handler has no infer")

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Raise NotImplementedError."""
        raise NotImplementedError("this handler has no model_metadata")

    def model_load(self, model_name: str) -> bool:
        """Raise NotImplementedError."""
        raise NotImplementedError("this handler has no model_load")
