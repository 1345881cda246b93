"""A model as KServe sees it: what its servers, and programs written for it, call.

The host itself calls none of this, but for V1, which KServe's own routes answer.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Coroutine
from typing import Any, TypeVar

from oip_handler.datatypes import datatype_name
from oip_handler.errors import InvalidRequest, ModelNotReady, NotSupported
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
)
from oip_host.kserve.api import kserve
from oip_host.kserve.messages import request_from_kserve, response_to_kserve

__all__ = ["BaseModel"]

T = TypeVar("T")


class BaseModel(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """A `kserve.Model` in front of the asynchronous life of a model of the host."""

    @abstractmethod
    async def load_handler(self) -> bool:
        """Load the model, and return whether it is ready."""

    @abstractmethod
    async def unload_handler(self) -> None:
        """Answer what is in flight, and release the handler."""

    @abstractmethod
    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Return the answer to a V2 request; raises OIPError."""

    @abstractmethod
    async def predict_v1(
        self, body: Any, headers: dict[str, str], verb: Any
    ) -> tuple[Any, dict[str, str]]:
        """Return the answer to a V1 request and its headers; raises OIPError."""

    @abstractmethod
    def get_metadata(self) -> ModelMetadataResponse | None:
        """Return the metadata, where there are some."""

    def load(self) -> bool:
        """Load the model and return whether it is ready, for programs without a host.

        KServe's data plane also calls it inline, on its event loop, for a model that is
        not ready; there it loads nothing.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return _run(self.load_handler())
        return bool(self.ready)

    def start(self) -> None:
        """Do nothing: KServe would set `ready` here, also after a failed load."""

    def stop(self) -> None:
        """Release the handler, as far as KServe's shutdown waits for it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            _run(self.unload_handler())
        else:
            self._stopping = loop.create_task(self.unload_handler())

    async def __call__(
        self, body: Any, headers: dict[str, str] | None = None, verb: Any = None
    ) -> tuple[Any, dict[str, str]]:
        """Answer an `InferRequest` (V2), or a dictionary (V1)."""
        try:
            if isinstance(body, kserve.InferRequest):
                answer = await self.infer(request_from_kserve(body))
                return response_to_kserve(answer), {}
            return await self.predict_v1(body, headers or {}, verb)
        except (InvalidRequest, ValueError) as error:
            raise kserve.errors.InvalidInput(str(error)) from error
        except ModelNotReady as error:
            unready = kserve.errors.ModelNotReady(self.name, str(error))
            unready.reason = str(error)  # KServe's gRPC interceptor reads it
            raise unready from error
        except NotSupported as error:
            raise _NotImplemented(str(error)) from error

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the inputs of the metadata, in KServe's form."""
        return _types(getattr(self.get_metadata(), "inputs", []))

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the outputs of the metadata, in KServe's form."""
        return _types(getattr(self.get_metadata(), "outputs", []))


class _NotImplemented(NotSupported, NotImplementedError):
    """NotSupported in a form that KServe's own servers know too."""

    reason = property(str)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own.

    `asyncio.run` would leave the thread without a current loop, and a stock KServe
    server that starts after that needs one.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def _types(tensors: list[Any]) -> list[dict[str, Any]]:
    return [
        {"name": t.name, "datatype": datatype_name(t.datatype),
         "shape": list(t.shape)}
        for t in tensors
    ]  # fmt: skip
