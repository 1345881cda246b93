"""Calls to a handler in process, without a server: check, call, check.

It is aiSSEMBLE's `DataplaneHandler`, and itself a handler: a subclass of it is hosted
like any other handler.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Coroutine
from inspect import isawaitable
from threading import Lock
from typing import Any, TypeVar

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

T = TypeVar("T")


class DataplaneHandler:
    """Calls one handler as the host does, with the host's checks on both sides.

    The handler's methods may be plain or `async def`. `infer`, `model_metadata`,
    `model_load` and `model_ready` return when the handler is done, and raise
    RuntimeError for an `async def` method while an event loop runs in the thread: await
    `infer_async` and its siblings there. All `async def` methods that are called
    without a running loop share one loop, so that a client or lock that `model_load`
    made is usable in `infer`.
    """

    _loop: _PrivateLoop | None = None

    def __init__(self, model_handler: ModelHandler | None = None) -> None:
        self.model_handler = model_handler or DefaultModelHandler()

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Return the handler's response to a request.

        Raises ValueError or TypeError if a tensor of the request or of the response
        does not fit its shape or datatype.
        """
        payload.validate_oip()
        response = self._finish(
            self.model_handler.infer(payload, model_name, model_version), "infer"
        )
        response.validate_oip()
        return response

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Return the handler's description of the model."""
        metadata = self.model_handler.model_metadata(model_name, model_version)
        return self._finish(metadata, "model_metadata")

    def model_load(self, model_name: str) -> bool:
        """Load the model; return False if the handler could not."""
        return self._finish(self.model_handler.model_load(model_name), "model_load")

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Return whether the handler's model can answer."""
        ready = self.model_handler.model_ready(model_name, model_version)
        return self._finish(ready, "model_ready")

    async def infer_async(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Return the handler's response; see `infer`.

        A plain method blocks the running event loop until it returns; this is true for
        each of these four methods.
        """
        payload.validate_oip()
        response = await _await(
            self.model_handler.infer(payload, model_name, model_version)
        )
        response.validate_oip()
        return response

    async def model_metadata_async(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Return the handler's description of the model."""
        return await _await(
            self.model_handler.model_metadata(model_name, model_version)
        )

    async def model_load_async(self, model_name: str) -> bool:
        """Load the model; return False if the handler could not."""
        return await _await(self.model_handler.model_load(model_name))

    async def model_ready_async(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        """Return whether the handler's model can answer."""
        return await _await(self.model_handler.model_ready(model_name, model_version))

    def server_ready(self) -> ServerReadyResponse:
        """Return that the server is live: there is none here that could fail."""
        return ServerReadyResponse(live=True)

    def server_live(self) -> ServerLiveResponse:
        """Return that the server is live: there is none here that could fail."""
        return ServerLiveResponse(live=True)

    def server_metadata(self) -> ServerMetadataResponse:
        """Return the fixed description that upstream gives."""
        return ServerMetadataResponse(
            name="Inference Server", version="1.0", extensions=[]
        )

    def _finish(self, result: T | Coroutine[Any, Any, T], method: str) -> T:
        """Return a plain method's result, or run that of an `async def` to its end."""
        if not asyncio.iscoroutine(result):
            return result
        if _is_loop_running():
            result.close()
            raise RuntimeError(
                f"{type(self.model_handler).__name__}.{method} is 'async def' and an "
                f"event loop is running in this thread; await {method}_async instead"
            )
        if self._loop is None:
            self._loop = _PrivateLoop()
            weakref.finalize(self, self._loop.close)
        response: T = self._loop.run(result)
        return response


class _PrivateLoop:
    """An event loop that runs one coroutine at a time, in the thread of its caller."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = Lock()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end and return its result."""
        with self._lock:
            return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        """Cancel the tasks that the handler left behind, and close the loop."""
        tasks = asyncio.all_tasks(self._loop)
        if tasks and not _is_loop_running():
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(_wait_for(tasks))
        self._loop.close()


async def _wait_for(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


async def _await(result: T | Awaitable[T]) -> T:
    return await result if isawaitable(result) else result


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
