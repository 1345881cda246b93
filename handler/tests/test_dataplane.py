"""A handler in process, plain or async, with the host's checks on both sides."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from oip_handler import (
    DataplaneHandler,
    InferenceRequest,
    InferenceResponse,
    ModelHandler,
    ModelMetadataResponse,
    ModelReadyResponse,
    ResponseOutput,
    request_id,
)
from oip_handler.request import current


class Doubles(ModelHandler):
    """A handler that doubles its first input, with as many rows as `shape` says."""

    def __init__(self, shape: list[int] | None = None) -> None:
        self.shape = shape

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        output = ResponseOutput.from_numpy("y", 2 * payload.inputs[0].as_numpy())
        output.shape = self.shape or output.shape
        return InferenceResponse(
            model_name=model_name, model_version=model_version, outputs=[output]
        )

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        return ModelMetadataResponse(
            name=model_name, platform="test", inputs=[], outputs=[]
        )

    def model_load(self, model_name: str) -> bool:
        return model_name != "broken"


class DoublesAsync:
    """The same with `async def`; `infer` needs the loop of `model_load`."""

    def __init__(self, shape: list[int] | None = None) -> None:
        self.plain = Doubles(shape)
        self.ids: list[str] = []

    async def model_load(self, model_name: str) -> bool:
        self.loop = asyncio.get_running_loop()
        self.background = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        return self.plain.model_load(model_name)

    async def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        await asyncio.sleep(0)
        self.ids.append(request_id())
        assert self.loop is asyncio.get_running_loop()
        return self.plain.infer(payload, model_name, model_version)

    async def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        return self.plain.model_metadata(model_name, model_version)

    async def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        return self.plain.model_ready(model_name, model_version)


def request(shape: list[int] | None = None) -> InferenceRequest:
    """Return a request with two numbers and the given shape."""
    x = {"name": "x", "datatype": "INT64", "shape": shape or [2], "data": [1, 2]}
    return InferenceRequest.model_validate({"inputs": [x]})


def doubled(response: InferenceResponse) -> list[int]:
    """Return the elements of a response's first output."""
    return list(response.outputs[0].data.root)


BOTH = pytest.mark.parametrize("kind", [Doubles, DoublesAsync], ids=["plain", "async"])


@BOTH
def test_methods_return_the_handlers_results(kind: type) -> None:
    """A caller without an event loop sees no difference between plain and async."""
    dataplane = DataplaneHandler(kind())
    assert dataplane.model_load("m") is True
    assert dataplane.model_load("broken") is False
    assert [2, 4] == doubled(dataplane.infer(request(), "m", "3"))
    assert "3" == dataplane.infer(request(), "m", "3").model_version
    assert "m" == dataplane.model_metadata("m").name
    assert dataplane.model_ready("m").ready is True


@BOTH
def test_each_method_can_be_awaited(kind: type) -> None:
    """The methods that end in _async run in the caller's event loop."""

    async def call() -> None:
        dataplane = DataplaneHandler(kind())
        assert await dataplane.model_load_async("m") is True
        assert [2, 4] == doubled(await dataplane.infer_async(request(), "m"))
        assert "m" == (await dataplane.model_metadata_async("m")).name
        assert (await dataplane.model_ready_async("m")).ready is True

    asyncio.run(call())


@BOTH
def test_requests_and_responses_are_checked(kind: type) -> None:
    """A tensor that does not fit its shape raises on either side, awaited or not."""
    wrong_request = request([3])
    with pytest.raises(ValueError, match=r"input 'x': shape \[3\] needs 3 elements"):
        DataplaneHandler(kind()).infer(wrong_request, "m")
    dataplane = DataplaneHandler(kind([5]))
    dataplane.model_load("m")
    with pytest.raises(ValueError, match=r"output 'y': shape \[5\] needs 5 elements"):
        dataplane.infer(request(), "m")

    async def call() -> None:
        dataplane = DataplaneHandler(kind([5]))
        await dataplane.model_load_async("m")
        with pytest.raises(ValueError, match="input 'x'"):
            await dataplane.infer_async(wrong_request, "m")
        with pytest.raises(ValueError, match="output 'y'"):
            await dataplane.infer_async(request(), "m")

    asyncio.run(call())


def test_async_handler_in_running_loop_explains_await() -> None:
    """A loop cannot wait for itself; the error names the method to await."""

    async def call() -> None:
        dataplane = DataplaneHandler(DoublesAsync())  # type: ignore[arg-type]
        with pytest.raises(RuntimeError) as caught:
            dataplane.model_load("m")
        assert (
            "DoublesAsync.model_load is 'async def' and an event loop is running in "
            "this thread; await model_load_async instead"
        ) == str(caught.value)
        assert [2, 4] == doubled(DataplaneHandler(Doubles()).infer(request(), "m"))

    asyncio.run(call())


def test_threads_share_one_handler() -> None:
    """Calls of an async handler from several threads are answered one by one."""
    dataplane = DataplaneHandler(DoublesAsync())  # type: ignore[arg-type]
    dataplane.model_load("m")
    start = threading.Barrier(4)

    def call(_: int) -> list[int]:
        start.wait()
        return doubled(dataplane.infer(request(), "m"))

    with ThreadPoolExecutor(4) as pool:
        assert [[2, 4]] * 4 == list(pool.map(call, range(4)))


def test_async_handler_sees_the_request_id() -> None:
    """`request_id` has the same value in the handler as in its caller."""

    class Seven:
        id = "seven"

    handler = DoublesAsync()
    dataplane = DataplaneHandler(handler)  # type: ignore[arg-type]
    dataplane.model_load("m")
    token = current.set(Seven())
    try:
        dataplane.infer(request(), "m")
    finally:
        current.reset(token)
    assert ["seven"] == handler.ids


def test_loop_ends_with_the_handler() -> None:
    """A task that the handler left behind is cancelled, and the loop is closed."""
    handler = DoublesAsync()
    dataplane = DataplaneHandler(handler)  # type: ignore[arg-type]
    dataplane.model_load("m")
    del dataplane
    gc.collect()
    assert handler.background.cancelled()
    assert handler.loop.is_closed()


def test_default_handler_implements_nothing() -> None:
    """It raises in each method, as upstream's does."""
    dataplane = DataplaneHandler()
    with pytest.raises(NotImplementedError, match="has no infer"):
        dataplane.infer(request(), "m")
    with pytest.raises(NotImplementedError, match="has no model_metadata"):
        dataplane.model_metadata("m")
    with pytest.raises(NotImplementedError, match="has no model_load"):
        dataplane.model_load("m")
    assert (True, True) == (
        dataplane.server_live().live,
        dataplane.server_ready().live,
    )
    assert "Inference Server" == dataplane.server_metadata().name
