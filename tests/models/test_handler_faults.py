"""Each exception of a handler is logged once, whatever the client gets."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    InvalidRequest,
    ModelNotReady,
    OIPError,
    RequestInput,
    RequestOutput,
    TensorData,
)
from oip_host.config.model_options import ModelOptions
from oip_host.model_server import AissembleOIPKServe
from oip_host.telemetry.context import REQUEST_ID, RequestContext
from support.fakes import Echo
from support.process import Server, wait_for
from support.wire import request

ERRORS: list[tuple[type[BaseException], int, str]] = [
    (TypeError, 400, "WARNING"),
    (ValueError, 400, "WARNING"),
    (InvalidRequest, 400, "WARNING"),
    (NotImplementedError, 501, "ERROR"),
    (ModelNotReady, 503, "ERROR"),
    (RuntimeError, 500, "ERROR"),
    (SystemExit, 500, "ERROR"),
]


class Raises(Echo):
    """A handler that raises the given error in the method of that name."""

    def __init__(self, error: BaseException, method: str = "infer") -> None:
        self._error, self._method = error, method

    def _raise(self, method: str) -> None:
        if method == self._method:
            raise self._error

    def infer(self, *args: Any) -> Any:
        self._raise("infer")
        return super().infer(*args)

    def model_load(self, *args: Any) -> Any:
        self._raise("model_load")
        return super().model_load(*args)

    def model_metadata(self, *args: Any) -> Any:
        self._raise("model_metadata")
        return super().model_metadata(*args)

    def model_ready(self, *args: Any) -> Any:
        self._raise("model_ready")
        return super().model_ready(*args)

    def model_unload(self, *args: Any) -> Any:
        self._raise("model_unload")


class RaisesAsync(Raises):
    """The same in coroutines."""

    async def infer(self, *args: Any) -> Any:  # type: ignore[override]
        return super().infer(*args)

    async def model_load(self, *args: Any) -> Any:  # type: ignore[override]
        return super().model_load(*args)

    async def model_metadata(self, *args: Any) -> Any:  # type: ignore[override]
        return super().model_metadata(*args)

    async def model_ready(self, *args: Any) -> Any:  # type: ignore[override]
        return super().model_ready(*args)

    async def model_unload(self, *args: Any) -> Any:  # type: ignore[override]
        super().model_unload(*args)


class Poisoned(Echo):
    """Raises for a batch, and alone, where an element is negative."""

    def infer(self, payload: InferenceRequest, *args: Any) -> InferenceResponse:
        if (payload.inputs[0].as_numpy() < 0).any():
            raise ValueError("negative")
        return super().infer(payload, *args)


def ask(value: float = 1.0, *outputs: str) -> InferenceRequest:
    data = TensorData(np.array([value], np.float32))
    tensor = RequestInput(name="x", shape=[1, 1], datatype=Datatype.FP32, data=data)
    wanted = [RequestOutput(name=name) for name in outputs]
    return InferenceRequest(inputs=[tensor], outputs=wanted)


def context(identity: str) -> RequestContext:
    return RequestContext("rest", {REQUEST_ID: identity})


class Ids(logging.Handler):
    """A log handler that keeps each record with the id of its request."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[logging.LogRecord, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        from oip_host.telemetry.context import current

        asked = current.get()
        self.lines.append((record, asked.id if asked else ""))

    def raised(self) -> list[tuple[str, str, str, str]]:
        """Return level, text, exception and request id of each logged exception."""
        return [
            (record.levelname, record.getMessage(), str(record.exc_info[1]), identity)
            for record, identity in self.lines
            if record.exc_info is not None and record.exc_info[1] is not None
        ]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ids]:
    """The records of `oip_host` from WARNING on."""
    handler, logger = Ids(), logging.getLogger("oip_host")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.mark.parametrize("batch", [1, 8], ids=["single", "batch"])
@pytest.mark.parametrize("kind", [Raises, RaisesAsync], ids=["plain", "async"])
@pytest.mark.parametrize(
    ("raises", "status", "level"),
    ERRORS,
    ids=[raises.__name__ for raises, *_ in ERRORS],
)
async def test_exception_of_infer_is_logged_once(
    raises: type[BaseException],
    status: int,
    level: str,
    kind: type[Raises],
    batch: int,
    log: Ids,
) -> None:
    """The record has the traceback, model and request id; a 5xx is an ERROR."""
    error = raises("their words")
    options = ModelOptions(max_batch_size=batch)
    model = AissembleOIPKServe("m", kind(error), version="3", options=options)
    assert await model.load_handler()
    with pytest.raises(OIPError) as failed:
        await model.infer(ask(), context("order-1"))
    assert status == failed.value.http_status
    ((found, text, raised, identity),) = log.raised()
    assert (level, str(error), "order-1") == (found, raised, identity)
    expected = f"infer of model 'm' version '3' raised {raises.__name__}"
    assert f"{expected}, answering {failed.value.kind} ({status})" == text
    ((record, _),) = log.lines
    assert record.exc_info is not None
    frames = []
    trace = record.exc_info[2]
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "_raise" == frames[-1]  # the traceback was not wiped before it was logged
    assert ("m", "3") == (record.__dict__["model"], record.__dict__["version"])


METHODS = {
    "model_load": "the model is unavailable",
    "model_metadata": "answering {kind} ({status})",
    "model_ready": "the model is not ready",
    "model_unload": "unloading the model all the same",
}


@pytest.mark.parametrize("kind", [Raises, RaisesAsync], ids=["plain", "async"])
@pytest.mark.parametrize("method", METHODS)
async def test_exception_of_any_method_is_logged_once(
    method: str, kind: type[Raises], log: Ids
) -> None:
    """An exception is logged even if no client waits for the method."""
    error = TypeError("None has no weights")
    model = AissembleOIPKServe("m", kind(error, method))
    assert await model.load_handler() is (method != "model_load")
    assert await model.healthy() is (method not in ("model_load", "model_ready"))
    await model.unload_handler()
    ((level, text, raised, _),) = log.raised()
    assert str(error) == raised
    assert ("WARNING" if method == "model_metadata" else "ERROR") == level
    then = METHODS[method].format(kind="InvalidRequest", status=400)
    assert f"{method} of model 'm' version '1' raised TypeError, {then}" == text


async def test_exception_of_a_constructor_is_logged_once(log: Ids) -> None:
    """The host constructs the handler when the model loads."""

    class Broken(Echo):
        def __init__(self) -> None:
            raise OSError("no device")

    model = AissembleOIPKServe("m", Broken)
    assert not await model.load_handler()
    assert "OSError: no device" == model.reason
    assert ["no device"] == [raised for _, _, raised, _ in log.raised()]


async def test_handler_can_say_why_it_is_not_ready(log: Ids) -> None:
    """ModelNotReady from `model_ready` is an answer and not a fault."""
    handler = Raises(ModelNotReady("the cache is cold"), "model_ready")
    model = AissembleOIPKServe("m", handler)
    assert await model.load_handler()
    assert not await model.healthy()
    assert str(model.not_ready()).endswith("is not ready: the cache is cold")
    assert [] == log.lines


async def test_failed_requests_of_a_batch_are_logged_once(log: Ids) -> None:
    """Each failed request is logged with its own id; the merged call is not logged."""
    options = ModelOptions(max_batch_size=8, max_batch_delay_ms=50)
    model = AissembleOIPKServe("m", Poisoned(), options=options)
    assert await model.load_handler()
    values = [1.0, -1.0, 2.0, -2.0]
    answers = await asyncio.gather(
        *(model.infer(ask(value), context(f"id-{value:g}")) for value in values),
        return_exceptions=True,
    )
    assert [False, True, False, True] == [isinstance(a, OIPError) for a in answers]
    assert ["id--1", "id--2"] == sorted(identity for *_, identity in log.raised())


@pytest.mark.parametrize("batch", [1, 8], ids=["single", "batch"])
async def test_request_refused_by_the_host_is_not_logged(batch: int, log: Ids) -> None:
    """A request that does not fit is the client's fault: no handler raised anything."""
    options = ModelOptions(max_batch_size=batch, check_metadata=True)
    model = AissembleOIPKServe("m", Echo(), options=options)
    assert await model.load_handler()
    wrong_shape = ask()
    wrong_shape.inputs[0].shape = [3, 1]
    for wrong in (wrong_shape, ask()):  # the second has one column, expected are two
        with pytest.raises(InvalidRequest):
            await model.infer(wrong)
    free = AissembleOIPKServe("m", Echo(), options=ModelOptions(max_batch_size=batch))
    assert await free.load_handler()
    with pytest.raises(InvalidRequest, match="no output 'y'"):
        await free.infer(ask(1.0, "y"))
    assert [] == log.lines


async def test_failed_request_leaves_no_garbage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The objects of an exception are freed at once, without the collector."""
    # pytest keeps log records, and with them the traceback
    monkeypatch.setattr(logging.getLogger("oip_host"), "disabled", True)
    model = AissembleOIPKServe("m", Poisoned())
    assert await model.load_handler()
    gc.collect()
    gc.disable()
    try:
        asked = ask(-1.0)
        array = asked.inputs[0].data.array
        assert array is not None
        gone = weakref.ref(array)
        del array
        with suppress(OIPError):
            await model.infer(asked)
        del asked
        await asyncio.sleep(0.01)
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("handler", ["Wrong", "WrongAsync"])
def test_json_line_has_model_version_and_request(
    handler: str, serve: Callable[..., Server]
) -> None:
    """A TypeError is a 400 for the client and a traceback in the log."""
    server = serve(f"--handlers=m@7=fakes.logs:{handler}", "--log_format=json")
    server.wait_until_ready()
    headers = {"x-request-id": "order-4711"}
    body = request([1.0], [1])
    answer = server.post("/v2/models/m/infer", json=body, headers=headers)
    assert 400 == answer.status_code

    def find() -> list[Any]:
        lines = [orjson.loads(line) for line in server.log.splitlines()]
        return [line for line in lines if "raised TypeError" in line["message"]]

    (line,) = wait_for(find, "the line")
    expected = {
        "level": "WARNING",
        "model": "m",
        "version": "7",
        "request_id": "order-4711",
    }
    assert expected.items() <= line.items()
    assert "weights[0]" in line["exc_info"]
