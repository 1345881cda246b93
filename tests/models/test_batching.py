"""Dynamic batching: how requests are merged and answers split, and what is not run."""

from __future__ import annotations

import asyncio
import json
import math
import random
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oip_handler.datatypes import Array, from_raw, numpy_dtype, to_raw
from oip_host import (
    AissembleOIPKServe,
    Datatype,
    DeadlineExceeded,
    HandlerFault,
    InferenceRequest,
    InferenceResponse,
    InvalidRequest,
    ModelMetadataResponse,
    ModelNotReady,
    Overloaded,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    TensorData,
)
from oip_host.config.model_options import ModelOptions
from oip_host.models.merging import count_rows, merge, split
from support.control import change, described, metric
from support.fakes.batches import Batched, BatchedAsync, Calls, Mean, Probed
from support.process import DEADLINE_S, Server, wait_for
from support.wire import Reply, infer_grpc, infer_rest, request

HANDLERS: dict[str, Any] = {"thread": Batched, "loop": BatchedAsync}
LONG = 600_000.0
"""Milliseconds of a delay that a test does not live to see the end of."""

both_kinds = pytest.mark.parametrize("kind", HANDLERS)


def asked(
    *values: Any,
    shape: Sequence[int] | None = None,
    datatype: str = "FP32",
    name: str = "x",
    nested: bool = False,
    outputs: Sequence[RequestOutput] | None = (),
    **more: Any,
) -> InferenceRequest:
    """Return a request with one input that has one row for each value."""
    shape = [len(values), 1] if shape is None else list(shape)
    elements = TensorData([*values])
    array = elements.elements(datatype)
    tensor = RequestInput(
        name=name,
        shape=shape,
        datatype=Datatype(datatype),
        data=TensorData(array.reshape(shape) if nested else array),
    )
    wanted = outputs if outputs is None else [*outputs]
    return InferenceRequest(inputs=[tensor], outputs=wanted, **more)


def parameters(**given: Any) -> Parameters:
    return Parameters.model_validate(given)


def values(answer: InferenceResponse) -> list[Any]:
    """Return the elements of the only output."""
    (output,) = answer.outputs
    return [*output.as_numpy().ravel().tolist()]


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until the condition holds; AssertionError past the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


# -- merging and splitting ----------------------------------------------------


@st.composite
def arrays(draw: st.DrawFn, datatype: str, shape: list[int], text: bool) -> Array:
    """Any elements of the datatype, NaN included."""
    size = math.prod(shape)
    if datatype == "BYTES":
        element: Any = st.text(max_size=4) if text else st.binary(max_size=4)
        array = np.empty(size, object)
        array[:] = draw(st.lists(element, min_size=size, max_size=size))
        return array.reshape(shape)
    length = size * numpy_dtype(datatype).itemsize
    raw = draw(st.binary(min_size=length, max_size=length))
    return from_raw(raw, datatype).reshape(shape)


@st.composite
def fitting(draw: st.DrawFn) -> list[InferenceRequest]:
    """Requests with the same inputs, flat or nested, each with its own rows."""
    kinds = [
        (
            draw(st.sampled_from([*Datatype])).value,
            draw(st.lists(st.integers(0, 3), max_size=2)),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    requests = []
    for n, rows in enumerate(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))):
        inputs = []
        for i, (datatype, rest, nested, text) in enumerate(kinds):
            array = draw(arrays(datatype, [rows, *rest], text))
            data = TensorData(array if nested else array.ravel())
            tensor = {"shape": [*array.shape], "datatype": datatype, "data": data}
            inputs.append(RequestInput(name=f"x{i}", **tensor))
        requests.append(InferenceRequest(id=f"id-{n}", inputs=inputs))
    return requests


def octets(tensor: Any) -> bytes:
    return bytes(to_raw(tensor.as_numpy()))


@given(fitting())
def test_split_is_the_inverse_of_merge(requests: list[InferenceRequest]) -> None:
    """A handler that returns its inputs gives each request its own, to the last bit.

    A merged input has the rows of all requests in order; it stays flat where it was
    flat, and text where it was text.
    """
    whole = merge(requests)
    whole.validate_oip()
    assert sum(map(count_rows, requests)) == count_rows(whole)
    for i, tensor in enumerate(whole.inputs):
        single = [request.inputs[i] for request in requests]
        joined = [element for one in single for element in one.data.root]
        assert repr(joined) == repr([*tensor.data.root])
        assert b"".join(map(octets, single)) == octets(tensor)
    outputs = [
        ResponseOutput(**{**tensor.__dict__, "name": f"y{i}"})
        for i, tensor in enumerate(whole.inputs)
    ]
    answers = split(InferenceResponse(model_name="m", outputs=outputs), requests)
    for answer, original in zip(answers, requests, strict=True):
        assert isinstance(answer, InferenceResponse)
        assert len(requests) == 1 or original.id == answer.id
        for i, (output, tensor) in enumerate(
            zip(answer.outputs, original.inputs, strict=True)
        ):
            assert f"y{i}" == output.name
            assert (tensor.shape, tensor.datatype) == (output.shape, output.datatype)
            assert octets(tensor) == octets(output)


def test_merged_request_keeps_what_all_share() -> None:
    """A merged request has the common parameters and outputs, and no id."""
    requests = [
        asked(
            n,
            id=str(n),
            parameters=parameters(temperature=0.5, **codec),
            outputs=[RequestOutput(name="x", parameters=parameters(top=3, **binary))],
        )
        for n, (codec, binary) in enumerate(
            [({"binary_data_output": True}, {"binary_data": True}), ({}, {})]
        )
    ]
    requests[0].inputs[0].parameters = parameters(binary_data_size=4)
    whole = merge(requests)
    assert whole.id is None
    assert parameters(temperature=0.5) == whole.parameters
    assert [RequestOutput(name="x", parameters=parameters(top=3))] == whole.outputs
    assert whole.inputs[0].parameters is None
    assert parameters(binary_data_size=4) == requests[0].inputs[0].parameters


def test_request_id_wins_over_the_handlers_id() -> None:
    """An answer has the request's id, or else the handler's."""
    requests = [asked(1, id="mine"), asked(2)]
    output = ResponseOutput.from_numpy("y", np.array([1.0, 2.0]))
    for given_id in (None, "the handler's"):
        answer = InferenceResponse(model_name="m", id=given_id, outputs=[output])
        found = [one.id for one in split(answer, requests)]  # type: ignore[union-attr]
        assert ["mine", given_id] == found


@pytest.mark.parametrize("shape", [[], [0], [1], [4], [1, 3]], ids=str)
def test_output_with_wrong_rows_is_a_handler_fault(shape: list[int]) -> None:
    """Each request gets a fault with the output, its shape and the expected rows."""
    good = ResponseOutput.from_numpy("good", np.zeros(3))
    bad = ResponseOutput.from_numpy("bad", np.zeros(shape))
    answer = InferenceResponse(model_name="m", outputs=[good, bad])
    for requests in ([asked(1), asked(2, 3)], [asked(1, 2, 3)]):
        faults = split(answer, requests)
        assert [HandlerFault] * len(requests) == [*map(type, faults)]
        assert str(faults[0]) == (
            "model 'm' returned an invalid response: "
            f"output 'bad' has the shape {shape}, "
            "expected 3 rows, as many as the inputs have (max_batch_size)"
        )


# -- a model in this process --------------------------------------------------


class Hosted:
    """A model whose batches a test can see and hold."""

    def __init__(
        self, directory: Path, kind: str, handler: Any = None, **options: Any
    ) -> None:
        if kind == "loop":  # else a hundred calls run at once and none waits
            options = {"max_concurrency": 1, **options}
        self.calls = Calls(directory, "m")
        self.cancelled = (directory / "m.cancelled").exists
        self.model = AissembleOIPKServe(
            "m",
            handler or HANDLERS[kind],
            options=ModelOptions(**{"max_batch_size": 100, **options}),
        )

    def send(
        self, request: InferenceRequest, timeout_s: float | None = None
    ) -> asyncio.Task[InferenceResponse]:
        """Return the answer to come; the loop's next round accepts the request."""
        return asyncio.create_task(self.model.infer(request, timeout_s=timeout_s))

    def ask(self, *numbers: float, **more: Any) -> asyncio.Task[InferenceResponse]:
        return self.send(asked(*numbers, **more))

    @property
    def pending(self) -> int:
        """The requests that are accepted and not answered."""
        return self.model.count_pending()[0]

    async def hold(self, *numbers: float) -> list[asyncio.Task[InferenceResponse]]:
        """Keep the model busy with a batch of these numbers, or of a 0."""
        before = len(self.calls.made)
        self.calls.shut()
        sent = [self.ask(number) for number in numbers or (0,)]
        await until(lambda: len(self.calls.made) > before)
        return sent

    @property
    def statistics(self) -> dict[str, Any]:
        return self.model.statistics.document("m", "1")

    @property
    def batches(self) -> dict[int, int]:
        """The number of batches counted, by size."""
        stats = self.statistics["batch_stats"]
        return {one["batch_size"]: one["compute_infer"]["count"] for one in stats}


Host = Callable[..., Awaitable[Hosted]]


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """Load models, and unload them after the test with no request left."""
    monkeypatch.setenv("BATCH_DIR", str(tmp_path))
    made: list[Hosted] = []

    async def load(kind: str = "thread", handler: Any = None, **options: Any) -> Hosted:
        made.append(Hosted(tmp_path, kind, handler, **options))
        assert await made[-1].model.load_handler(), made[-1].model.reason
        return made[-1]

    yield load
    for hosted in made:
        hosted.calls.open()
        await asyncio.wait_for(hosted.model.unload_handler(), DEADLINE_S)
        assert 0 == hosted.pending


async def outcomes(tasks: Sequence[asyncio.Task[InferenceResponse]]) -> list[Any]:
    """Return the value of each answer, or the class of its error."""
    found = await asyncio.wait_for(
        asyncio.gather(*tasks, return_exceptions=True), DEADLINE_S
    )
    return [
        type(one) if isinstance(one, BaseException) else values(one)[0] for one in found
    ]


@both_kinds
async def test_waiting_requests_form_the_next_batch(host: Host, kind: str) -> None:
    """Requests behind a busy model run as one batch; each gets its own rows and id."""
    hosted = await host(kind)
    first = await hosted.hold()
    waiting = [hosted.ask(n, n + 0.5, id=f"id-{n}") for n in range(1, 6)]
    await asyncio.sleep(0)
    hosted.calls.open()
    for n, task in enumerate(waiting, start=1):
        answer = await task
        assert ([n, n + 0.5], f"id-{n}") == (values(answer), answer.id)
        assert ("m", "1", [2, 1]) == (
            answer.model_name,
            answer.model_version,
            answer.outputs[0].shape,
        )
    assert [0] == values(await first[0])
    together = [n + half for n in range(1, 6) for half in (0, 0.5)]
    assert [[0], together] == hosted.calls.made


@both_kinds
async def test_simultaneous_requests_form_a_batch(host: Host, kind: str) -> None:
    """A free model batches the requests of one round of the loop without a delay."""
    hosted = await host(kind)
    assert [1, 2, 3] == await outcomes([hosted.ask(n) for n in (1, 2, 3)])
    assert [[1, 2, 3]] == hosted.calls.made


@both_kinds
async def test_lone_request_reaches_its_handler_unchanged(
    host: Host, kind: str
) -> None:
    """A request that runs alone reaches the handler with its id and parameters."""
    hosted = await host(kind)
    given_ = parameters(binary_data_output=True, top=1)
    answer = await hosted.ask(7, id="mine", parameters=given_)
    assert ("mine", given_, [7]) == (answer.id, answer.parameters, values(answer))


async def test_batch_has_at_most_max_batch_size_rows(host: Host) -> None:
    """Requests stay whole and in order; one that is too large runs alone."""
    hosted = await host(max_batch_size=4)
    first = await hosted.hold()
    rows = [(1, 1), (2, 2), (3,), (4, 4), (5, 5), (6, 6, 6, 6, 6), (7,), (8, 8, 8, 8)]
    sent = [hosted.ask(*numbers) for numbers in rows]
    await asyncio.sleep(0)
    hosted.calls.open()
    assert [0, *range(1, 9)] == await outcomes(first + sent)
    assert [
        [0], [1, 1, 2, 2], [3, 4, 4], [5, 5], [6] * 5, [7], [8] * 4,
    ] == hosted.calls.made  # fmt: skip


SAME: dict[str, tuple[InferenceRequest, InferenceRequest]] = {
    "ids": (asked(1, id="a"), asked(2)),
    "rows": (asked(1), asked(2, 3)),
    "equal parameters": (
        asked(1, parameters=parameters(a=1, b="x")),
        asked(2, parameters=parameters(b="x", a=1)),
    ),
    "how outputs travel": (
        asked(1, parameters=parameters(binary_data_output=True)),
        asked(2, outputs=None),
    ),
    "no outputs": (asked(1, outputs=None), asked(2, outputs=[])),
    "text": (
        asked("1", shape=[1], datatype="BYTES"),
        asked("2", "3", shape=[2], datatype="BYTES"),
    ),
    "bytes": (
        asked(b"1", shape=[1], datatype="BYTES"),
        asked(b"\xff", shape=[1], datatype="BYTES"),
    ),
    "nested": (asked(1, nested=True), asked(2, nested=True)),
    "no elements in a row": (asked(shape=[1, 0]), asked(shape=[2, 0])),
}
OTHER: dict[str, tuple[InferenceRequest, InferenceRequest]] = {
    "name": (asked(1), asked(2, name="z")),
    "datatype": (asked(1), asked(2, datatype="FP64")),
    "trailing dimensions": (asked(1), asked(2, shape=[1])),
    "parameters": (asked(1), asked(2, parameters=parameters(a=1))),
    "true is not one": (
        asked(1, parameters=parameters(a=True)),
        asked(2, parameters=parameters(a=1)),
    ),
    "one is not 1.0": (
        asked(1, parameters=parameters(a=1.0)),
        asked(2, parameters=parameters(a=1)),
    ),
    "outputs": (asked(1), asked(2, outputs=[RequestOutput(name="x")])),
    "parameters of outputs": (
        asked(1, outputs=[RequestOutput(name="x", parameters=parameters(k=1))]),
        asked(2, outputs=[RequestOutput(name="x")]),
    ),
    "text and bytes": (
        asked("1", shape=[1], datatype="BYTES"),
        asked(b"1", shape=[1], datatype="BYTES"),
    ),
    "flat and nested": (asked(1), asked(2, nested=True)),
    "no rows": (asked(shape=[0, 1]), asked(shape=[0, 1])),
    "scalars": (asked(1, shape=[]), asked(2, shape=[])),
}


@pytest.mark.parametrize(
    ("pair", "calls"),
    [
        *(pytest.param(pair, 1, id=name) for name, pair in SAME.items()),
        *(pytest.param(pair, 2, id=f"not: {name}") for name, pair in OTHER.items()),
    ],
)
async def test_only_equal_signatures_are_merged(
    host: Host, pair: tuple[InferenceRequest, InferenceRequest], calls: int
) -> None:
    """Merged requests agree in inputs, types, trailing shapes, parameters and outputs.

    A tensor's list looks the same to the handler too.
    """
    hosted = await host()
    answers = await asyncio.gather(*map(hosted.send, pair))
    assert calls == len(hosted.calls.made)
    for answer, given_ in zip(answers, pair, strict=True):
        assert octets(given_.inputs[0]) == octets(answer.outputs[0])
        assert given_.inputs[0].shape == answer.outputs[0].shape


async def test_lists_from_kserves_server_are_merged(host: Host) -> None:
    """Tensors that are still Python lists are merged with lists of the same nesting."""
    hosted = await host()
    sent = []
    for data in ([1.0], [2.0], [[3.0]], [[4.0]], []):
        one = asked(0, shape=[1, 1])
        one.inputs[0].data = TensorData(data)
        sent.append(hosted.send(one))
    assert [1, 2, 3, 4, InvalidRequest] == await outcomes(sent)
    assert [[1, 2], [3, 4]] == hosted.calls.made


async def test_inputs_with_unequal_rows_run_alone(host: Host) -> None:
    """A request whose inputs have unequal first dimensions cannot be batched."""
    hosted = await host()
    requests = []
    for n in (1, 2):
        uneven = asked(n)
        uneven.inputs += asked(5, 6, name="z").inputs
        requests.append(uneven)
    answers = await asyncio.gather(*map(hosted.send, requests))
    assert [[1], [2]] == hosted.calls.made
    assert [[5, 6]] * 2 == [a.outputs[1].as_numpy().ravel().tolist() for a in answers]


@both_kinds
async def test_oldest_request_is_in_the_next_batch(host: Host, kind: str) -> None:
    """No later request overtakes the oldest one, whatever their signatures are."""
    hosted = await host(kind, max_batch_size=2)
    first = await hosted.hold()
    more = {"parameters": parameters(other=True)}
    sent = [
        hosted.ask(n, **(more if n in (2, 5) else {})) for n in (1, 2, 3, 4, 5, 6, 7)
    ]
    await asyncio.sleep(0)
    hosted.calls.open()
    assert [0, 1, 2, 3, 4, 5, 6, 7] == await outcomes(first + sent)
    assert [[0], [1, 3], [2, 5], [4, 6], [7]] == hosted.calls.made


@pytest.mark.parametrize("kind", HANDLERS)
async def test_max_concurrency_batches_run_at_once(host: Host, kind: str) -> None:
    """With max_concurrency 2, two batches run side by side and a third one waits."""
    hosted = await host(kind, max_batch_size=2, max_concurrency=2)
    hosted.calls.shut()
    sent = [hosted.ask(n) for n in range(6)]
    await until(lambda: len(hosted.calls.made) == 2)
    assert [[0, 1], [2, 3]] == sorted(hosted.calls.made)
    hosted.calls.open()
    assert [*range(6)] == await outcomes(sent)
    assert [4, 5] == hosted.calls.made[2]


# -- failures -----------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize(
    ("number", "error"),
    [
        pytest.param(-1, InvalidRequest, id="value error"),
        pytest.param(-2, HandlerFault, id="runtime error"),
        pytest.param(-3, HandlerFault, id="exit"),
        pytest.param(-4, HandlerFault, id="stop iteration"),
        pytest.param(-5, HandlerFault, id="memory"),
        pytest.param(-6, HandlerFault, id="cancelled"),
    ],
)
async def test_failing_request_fails_alone(
    host: Host, kind: str, number: float, error: type[Exception]
) -> None:
    """After any exception the requests of a batch are run again one by one."""
    hosted = await host(kind)
    sent = [hosted.ask(n) for n in (1, number, 2)]
    found = await outcomes(sent)
    assert [1, 2] == [found[0], found[2]]
    assert issubclass(error, found[1]) or issubclass(found[1], error)
    assert [[1, number, 2], [1], [number], [2]] == hosted.calls.made
    assert {1: 2} == hosted.batches
    assert 1 == hosted.statistics["inference_stats"]["fail"]["count"]


@both_kinds
async def test_inconsistent_request_is_refused_alone(host: Host, kind: str) -> None:
    """A request whose shape and elements differ is refused; the others are merged."""
    hosted = await host(kind)
    liar = asked(7)
    liar.inputs[0].shape = [3, 1]
    sent = [hosted.send(liar), hosted.ask(1), hosted.ask(2)]
    assert [InvalidRequest, 1, 2] == await outcomes(sent)
    with pytest.raises(InvalidRequest, match=r"shape \[3, 1\] needs 3 elements"):
        await sent[0]
    assert [[1, 2]] == hosted.calls.made
    assert {2: 1} == hosted.batches


async def test_request_against_the_metadata_is_refused_alone(host: Host) -> None:
    """With check_metadata each request is checked before it is merged."""
    hosted = await host(check_metadata=True)
    sent = [hosted.ask(1), hosted.ask(2, name="z"), hosted.ask(3)]
    assert [1, InvalidRequest, 3] == await outcomes(sent)
    assert [[1, 3]] == hosted.calls.made


async def test_metadata_of_one_row_prevent_batches(host: Host) -> None:
    """With check_metadata a fixed first dimension of 1 makes each request run alone."""

    class OneRow(Batched):
        def model_metadata(
            self, model_name: str, model_version: str | None = None
        ) -> ModelMetadataResponse:
            described = super().model_metadata(model_name, model_version)
            described.inputs[0].shape = [1, 1]
            return described

    hosted = await host(handler=OneRow, check_metadata=True)
    assert [1, 2] == await outcomes([hosted.ask(1), hosted.ask(2)])
    assert [[1], [2]] == hosted.calls.made


async def test_answer_without_rows_is_a_handler_fault(host: Host) -> None:
    """An answer without rows is a fault for one request as for several."""
    hosted = await host(handler=Mean)
    for rows in ([(1,), (2,)], [(1, 2)]):
        sent = [hosted.ask(*numbers) for numbers in rows]
        assert [HandlerFault] * len(sent) == await outcomes(sent)
        with pytest.raises(HandlerFault, match=r"'mean' has the shape \[1, 1\], expec"):
            await sent[0]
    assert [[1, 2], [1, 2]] == hosted.calls.made


async def test_unknown_requested_output_is_refused(host: Host) -> None:
    """A request for an unknown output is refused as it is without batches."""
    hosted = await host()
    wanted = [RequestOutput(name="nothing")]
    sent = [hosted.ask(n, outputs=wanted) for n in (1, 2)] + [hosted.ask(3)]
    assert [InvalidRequest, InvalidRequest, 3] == await outcomes(sent)


@both_kinds
async def test_abandoned_requests_are_not_run_again(host: Host, kind: str) -> None:
    """After a failed batch, cancelled and expired requests are not run again."""
    hosted = await host(kind)
    sent = await hosted.hold(-1, 1, 2)
    late = hosted.send(asked(3), timeout_s=0.01)
    assert [DeadlineExceeded] == await outcomes([late])
    sent[1].cancel()
    assert [asyncio.CancelledError] == await outcomes(sent[1:2])
    hosted.calls.open()
    assert [InvalidRequest, 2] == await outcomes([sent[0], sent[2]])
    assert [[-1, 1, 2], [-1], [2]] == hosted.calls.made


@both_kinds
async def test_expired_request_of_a_failed_batch_is_not_rerun(
    host: Host, kind: str
) -> None:
    """A request is not run again after its deadline, though its batch was in time."""
    hosted = await host(kind)
    hosted.calls.shut()
    late, other = hosted.send(asked(-1), timeout_s=1), hosted.ask(1)
    await until(lambda: hosted.calls.made)
    assert [DeadlineExceeded] == await outcomes([late])
    hosted.calls.open()
    assert [1] == await outcomes([other])
    assert [[-1, 1], [1]] == hosted.calls.made


async def test_cancelled_rerun_frees_its_place(host: Host) -> None:
    """A request that waits for its second run can expire or be cancelled."""
    steps = threading.Semaphore(0)

    class Stepped(Batched):
        def answer(
            self, payload: InferenceRequest, model_name: str
        ) -> InferenceResponse:
            steps.acquire(timeout=DEADLINE_S)
            return super().answer(payload, model_name)

    hosted = await host(handler=Stepped)
    sent = [hosted.ask(n) for n in (-1, 1, 2)]
    late = hosted.send(asked(3), timeout_s=1)
    steps.release()
    await until(lambda: hosted.calls.made == [[-1, 1, 2, 3], [-1]])
    sent[1].cancel()
    assert [asyncio.CancelledError] == await outcomes(sent[1:2])
    assert [DeadlineExceeded] == await outcomes([late])
    assert 2 == hosted.pending
    steps.release(2)
    assert [InvalidRequest, 2] == await outcomes([sent[0], sent[2]])
    assert [[-1, 1, 2, 3], [-1], [2]] == hosted.calls.made


# -- admission, deadlines and clients that leave ------------------------------


@both_kinds
async def test_requests_beyond_the_bounds_are_refused_at_once(
    host: Host, kind: str
) -> None:
    """One batch and max_queue more requests are answered; the rest is refused."""
    hosted = await host(kind, max_batch_size=4, max_queue=3)
    first = await hosted.hold()
    sent = [hosted.ask(n) for n in range(1, 20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    refused = [task for task in sent if task.done()]
    assert 13 == len(refused)
    assert {Overloaded} == {*await outcomes(refused)}
    assert 4 + 3 == hosted.pending
    hosted.calls.open()
    found = await outcomes(first + sent)
    answered = [one for one in found if one is not Overloaded]
    assert [0, 1, 2, 3, 4, 5, 6] == answered
    assert len(found) == len(answered) + len(refused)
    assert [*answered] == hosted.calls.elements


@both_kinds
async def test_expired_request_is_not_run(host: Host, kind: str) -> None:
    """A request that waits past its deadline fails on time and is in no batch."""
    hosted = await host(kind)
    first = await hosted.hold()
    late = [hosted.send(asked(n), timeout_s=0.05) for n in (1, 2)]
    other = hosted.ask(3)
    assert [DeadlineExceeded] * 2 == await outcomes(late)
    assert 2 == hosted.pending
    hosted.calls.open()
    assert [0, 3] == await outcomes([*first, other])
    assert [[0], [3]] == hosted.calls.made


@both_kinds
async def test_late_loop_does_not_run_expired_requests(host: Host, kind: str) -> None:
    """An expired request is not run, even if the loop could not fail it on time."""
    hosted = await host(kind)
    late, other = hosted.send(asked(1), timeout_s=0.01), hosted.ask(2)
    await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251  # it holds up the loop, as its name says
    assert [DeadlineExceeded, 2] == await outcomes([late, other])
    assert [[2]] == hosted.calls.made


@both_kinds
async def test_cancelled_request_frees_its_place(host: Host, kind: str) -> None:
    """A cancelled request frees its place at once, and its rows are in no batch."""
    hosted = await host(kind, max_batch_size=2, max_queue=1)
    first = await hosted.hold()
    leaving, staying, refused = hosted.ask(1), hosted.ask(2), hosted.ask(3)
    assert [Overloaded] == await outcomes([refused])
    leaving.cancel()
    assert [asyncio.CancelledError] == await outcomes([leaving])
    instead = hosted.ask(4)
    await asyncio.sleep(0)
    hosted.calls.open()
    assert [0, 2, 4] == await outcomes([*first, staying, instead])
    assert [[0], [2, 4]] == hosted.calls.made


@both_kinds
async def test_cancelled_request_does_not_end_its_batch(host: Host, kind: str) -> None:
    """The other requests get their rows, and the batch counts with its full size."""
    hosted = await host(kind)
    sent = await hosted.hold(1, 2, 3)
    sent[0].cancel()
    await asyncio.sleep(0)
    hosted.calls.open()
    assert [asyncio.CancelledError, 2, 3] == await outcomes(sent)
    assert {3: 1} == hosted.batches
    assert 2 == hosted.statistics["inference_count"]


async def test_abandoned_coroutine_is_cancelled(host: Host) -> None:
    """When the last client of a batch leaves, its call ends and the next batch runs."""
    hosted = await host("loop")
    sent = await hosted.hold(1, 2, 3)
    sent[0].cancel()
    sent[2].cancel()
    await outcomes([sent[0], sent[2]])
    after = hosted.ask(4)
    await asyncio.sleep(0.05)
    assert not hosted.cancelled()
    sent[1].cancel()
    await until(hosted.cancelled)
    await until(lambda: len(hosted.calls.made) == 2)
    hosted.calls.open()
    assert [4] == await outcomes([after])
    assert [[1, 2, 3], [4]] == hosted.calls.made


@both_kinds
async def test_random_requests_and_cancellations(host: Host, kind: str) -> None:
    """In any mixture each client that stays gets its own rows; no request is left."""
    hosted = await host(kind, max_batch_size=8, max_concurrency=2, max_queue=10_000)
    chance = random.Random(5)
    sent: dict[int, asyncio.Task[InferenceResponse]] = {}
    expected: dict[int, Any] = {}
    for n in range(1, 1001):
        fails = n % 97 == 0
        more = {"parameters": parameters(key=True)} if n % 3 == 0 else {}
        numbers = [-1.0] if fails else [float(n)] * chance.randint(1, 3)
        sent[n] = hosted.ask(*numbers, **more)
        expected[n] = InvalidRequest if fails else n
        if n % 5 == 0:
            left = chance.randint(1, n)
            if sent[left].cancel():
                expected[left] = asyncio.CancelledError
        if n % 10 == 0:
            await asyncio.sleep(0.001 if n % 50 == 0 else 0)
    found = await outcomes([*sent.values()])
    assert [*expected.values()] == found
    assert 0 == hosted.pending
    count = Counter(isinstance(one, (int, float)) for one in found)
    assert count[True] == hosted.statistics["inference_count"]
    assert hosted.statistics["execution_count"] < count[True]


@both_kinds
async def test_batch_waits_for_a_full_lane(
    host: Host, kind: str, tmp_path: Path
) -> None:
    """An accepted request is not refused while other calls fill the lane.

    Requests that arrive meanwhile join its batch.
    """
    hosted = await host(kind, handler=Probed, max_queue=0)
    ready = Calls(tmp_path, "m-ready")
    ready.shut()
    asking = asyncio.create_task(hosted.model.healthy())
    await until(lambda: any(lane.pending for lane in hosted.model._execution.lanes))
    sent = [hosted.ask(1)]
    for _ in range(10):
        await asyncio.sleep(0.005)
    sent.append(hosted.ask(2))
    await asyncio.sleep(0)
    ready.open()
    assert await asking
    assert [1, 2] == await outcomes(sent)
    assert [[1, 2]] == hosted.calls.made


# -- delay --------------------------------------------------------------------


@both_kinds
async def test_full_batch_skips_the_delay(host: Host, kind: str) -> None:
    """Requests wait for later ones until the batch is full, and no longer."""
    hosted = await host(kind, max_batch_size=3, max_batch_delay_ms=LONG)
    sent = []
    for n in (1, 2, 3):
        assert [] == hosted.calls.made
        sent.append(hosted.ask(n))
        await until(lambda n=n: hosted.pending == n or n == 3)  # type: ignore[misc]
        await asyncio.sleep(0.01)
    assert [1, 2, 3] == await outcomes(sent)
    assert [[1, 2, 3]] == hosted.calls.made


async def test_next_request_too_large_ends_the_delay(host: Host) -> None:
    """A batch without room for the next request does not wait any longer."""
    hosted = await host(max_batch_size=3, max_batch_delay_ms=LONG)
    sent = [hosted.ask(1, 1), hosted.ask(2, 2)]
    assert [1] == await outcomes(sent[:1])
    sent.append(hosted.ask(3))
    assert [2, 3] == await outcomes(sent[1:])
    assert [[1, 1], [2, 2, 3]] == hosted.calls.made


@both_kinds
async def test_lone_request_waits_for_the_delay_only(host: Host, kind: str) -> None:
    """A request without company runs alone after the delay."""
    hosted = await host(kind, max_batch_delay_ms=100)
    began = time.perf_counter()
    assert [1] == await outcomes([hosted.ask(1)])
    assert 0.099 < time.perf_counter() - began < 20
    assert hosted.statistics["inference_stats"]["queue"]["ns"] > 99_000_000


async def test_delay_does_not_hold_up_other_batches(host: Host) -> None:
    """While one request waits, full batches and requests that cannot be merged run."""
    hosted = await host(max_batch_size=2, max_batch_delay_ms=LONG)
    held = hosted.ask(1)
    await until(lambda: hosted.pending)
    alone = hosted.send(asked(2, shape=[]))
    more = {"parameters": parameters(other=True)}
    full = [hosted.ask(n, **more) for n in (3, 4)]
    assert [2, 3, 4] == await outcomes([alone, *full])
    assert not held.done()
    assert [5, 1] == await outcomes([hosted.ask(5), held])
    assert [[2], [3, 4], [1, 5]] == hosted.calls.made


async def test_delay_starts_with_the_oldest_request(host: Host) -> None:
    """The delay is counted from the oldest request that is still waiting."""
    hosted = await host(max_batch_delay_ms=1000)
    leaving = hosted.ask(1)
    await asyncio.sleep(0.1)  # far less than the delay, also on a slow machine
    began = time.perf_counter()
    staying = hosted.ask(2)
    leaving.cancel()
    assert [2] == await outcomes([staying])
    assert 0.999 < time.perf_counter() - began < 20
    assert [[2]] == hosted.calls.made


async def test_delay_ends_with_the_last_cancelled_request(host: Host) -> None:
    """After the last waiting request is cancelled, the model batches as before."""
    hosted = await host(max_batch_size=2, max_batch_delay_ms=LONG)
    for _ in range(3):
        leaving = hosted.ask(1)
        await until(lambda: hosted.pending)
        leaving.cancel()
        await outcomes([leaving])
        assert 0 == hosted.pending
    assert [2, 3] == await outcomes([hosted.ask(2), hosted.ask(3)])
    assert [[2, 3]] == hosted.calls.made


# -- the end of a model -------------------------------------------------------


@both_kinds
async def test_unload_answers_accepted_requests(host: Host, kind: str) -> None:
    """An unloading model refuses new requests and answers all that it accepted."""
    hosted = await host(kind, max_batch_size=2)
    first = await hosted.hold()
    sent = [hosted.ask(n) for n in (1, -1, 2, 3)]
    await asyncio.sleep(0)
    unloading = asyncio.create_task(hosted.model.unload_handler())
    await asyncio.sleep(0.01)
    assert [ModelNotReady] == await outcomes([hosted.ask(9)])
    assert not unloading.done()
    hosted.calls.open()
    assert [0, 1, InvalidRequest, 2, 3] == await outcomes(first + sent)
    await asyncio.wait_for(unloading, DEADLINE_S)
    assert [[0], [1, -1], [1], [-1], [2, 3]] == hosted.calls.made


@both_kinds
@pytest.mark.parametrize("running", [1, 3])
async def test_fail_pending_counts_each_request_once(
    host: Host, kind: str, running: int
) -> None:
    """`fail_pending` fails running and waiting requests and returns their number.

    Requests that had not started never run.
    """
    hosted = await host(kind)
    sent = await hosted.hold(*range(running))
    sent += [hosted.ask(n) for n in (7, 8)] + [hosted.send(asked(9, shape=[]))]
    await asyncio.sleep(0)
    assert running + 3 == hosted.model.fail_pending(ModelNotReady("the end"))
    assert [ModelNotReady] * (running + 3) == await outcomes(sent)
    assert 0 == hosted.model.fail_pending(ModelNotReady("the end"))
    hosted.calls.open()
    await asyncio.wait_for(hosted.model.unload_handler(), DEADLINE_S)
    assert [[*range(running)]] == hosted.calls.made


@both_kinds
async def test_reloaded_model_batches_again(host: Host, kind: str) -> None:
    """A model that is unloaded and loaded again batches as before."""
    hosted = await host(kind)
    assert [1, 2] == await outcomes([hosted.ask(n) for n in (1, 2)])
    await hosted.model.unload_handler()
    assert await hosted.model.load_handler()
    assert [3, 4] == await outcomes([hosted.ask(n) for n in (3, 4)])
    assert [[1, 2], [3, 4]] == hosted.calls.made
    assert {2: 2} == hosted.batches


@both_kinds
async def test_batch_counts_as_one_execution(host: Host, kind: str) -> None:
    """Each request counts as an inference, each batch as one execution."""
    hosted = await host(kind, max_batch_size=3)
    first = await hosted.hold()
    sent = [hosted.ask(n) for n in range(1, 8)]
    await asyncio.sleep(0)
    hosted.calls.open()
    await outcomes(first + sent)
    found = hosted.statistics
    assert (8, 4) == (found["inference_count"], found["execution_count"])
    assert {1: 2, 3: 2} == hosted.batches
    assert 8 == found["inference_stats"]["compute_infer"]["count"]


# -- a server -----------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "many-thread": {"max_batch_size": 24, "max_batch_delay_ms": LONG},
    "many-loop": {"max_batch_size": 24, "max_batch_delay_ms": LONG},
    "texts": {"max_batch_size": 3, "max_batch_delay_ms": LONG},
    "poisoned": {"max_batch_size": 4, "max_batch_delay_ms": LONG},
    "mean": {"max_batch_size": 2, "max_batch_delay_ms": LONG},
    "v1": {"max_batch_size": 3, "max_batch_delay_ms": LONG},
    "kserve": {"max_batch_size": 2, "max_batch_delay_ms": LONG},
    "delayed": {"max_batch_delay_ms": 200, "max_batch_size": 8},
    "full": {"max_batch_size": 4, "max_queue": 3},
    "late": {"max_batch_size": 2, "timeout_s": 1},
    "patient": {"max_batch_size": 2},
    "left": {"max_batch_size": 2, "max_queue": 0},
    "anew": {"max_batch_size": 3, "max_queue": 1},
}
"""The models of the server, each for one test."""
HANDLER_NAMES = {
    "many-loop": "fakes.batches:BatchedAsync",
    "mean": "fakes.batches:Mean",
    "kserve": "fakes:KServeDouble",
}
ASKS = {"rest": infer_rest, "grpc": infer_grpc}

Ask = Callable[..., Future[Any]]


def arguments(options: dict[str, dict[str, Any]]) -> list[str]:
    """Return the command line for models with these options."""
    models = [f"{m}={HANDLER_NAMES.get(m, 'fakes.batches:Batched')}" for m in options]
    return [
        f"--handlers={','.join(models)}",
        "--model_control=explicit",
        *(
            f"--models.{model}.{option}={value}"
            for model, given_ in options.items()
            for option, value in given_.items()
        ),
    ]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches")


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Server]:
    with Server(*arguments(OPTIONS), env={"BATCH_DIR": str(directory)}) as server:
        yield server.wait_until_ready()


@pytest.fixture
def background() -> Iterator[Ask]:
    """Send a request from a separate thread."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit


@pytest.fixture
def shut(directory: Path) -> Iterator[Callable[[str], Calls]]:
    """Hold the calls of a model, until the end of the test at the latest."""
    made: list[Calls] = []

    def close(model: str) -> Calls:
        made.append(Calls(directory, model))
        made[-1].shut()
        return made[-1]

    yield close
    for calls in made:
        calls.open()


def row(number: float, **more: Any) -> Any:
    """Return a request of one row."""
    return request([number], [1, 1], **more)


def output(reply: Reply) -> Any:
    """Return the elements of the only output of the answer."""
    assert reply.status in (200, "OK"), reply
    return reply.document["outputs"][0]["data"]


@both_kinds
def test_requests_of_both_protocols_share_a_batch(
    server: Server, directory: Path, background: Ask, kind: str
) -> None:
    """REST and gRPC requests run in one call; each client gets its own rows and id."""
    model = f"many-{kind}"
    sent = {
        n: background(ASKS["grpc" if n % 2 else "rest"], server, model, asked_)
        for n in range(24)
        for asked_ in [row(n, id=f"id-{n}")]
    }
    for n, reply in sent.items():
        document = reply.result().document
        assert [n] == output(reply.result())
        assert (f"id-{n}", model) == (document["id"], document["model_name"])
    (call,) = Calls(directory, model).made
    assert [*range(24)] == sorted(call)
    stats = described(server, "rest", "stats", model).document["model_stats"][0]
    assert (24, 1) == (stats["inference_count"], stats["execution_count"])
    (batch,) = stats["batch_stats"]
    assert (24, 1) == (batch["batch_size"], batch["compute_infer"]["count"])
    assert 24 == stats["inference_stats"]["success"]["count"]


def test_text_and_bytes_are_not_mixed_in_a_batch(
    server: Server, directory: Path, background: Ask
) -> None:
    """JSON text reaches the handler as text and gRPC bytes as bytes, in any batch."""
    sent = {
        f"{protocol}-ü{n}": background(
            ASKS[protocol], server, "texts", request([f"{protocol}-ü{n}"], [1], "BYTES")
        )
        for protocol in ASKS
        for n in range(3)
    }
    for text, reply in sent.items():
        assert [text] == output(reply.result())
    calls = sorted(sorted(call) for call in Calls(directory, "texts").made)
    assert [[f"{p}-ü{n}" for n in range(3)] for p in ("grpc", "rest")] == calls


def test_poisoned_request_fails_alone_on_both_protocols(
    server: Server, directory: Path, background: Ask
) -> None:
    """The client's fault is a 400, the handler's INTERNAL; the others are answered."""
    numbers = {"rest": (-1, 2), "grpc": (-2, 3)}
    sent = {
        n: background(ASKS[protocol], server, "poisoned", row(n))
        for protocol, pair in numbers.items()
        for n in pair
    }
    replies = {n: reply.result() for n, reply in sent.items()}
    assert (400, "a number is negative") == (replies[-1].status, replies[-1].error)
    assert "INTERNAL" == replies[-2].status
    assert "model 'poisoned' failed; the server's log has the reason" == (
        replies[-2].error
    )
    assert ([2], [3]) == (output(replies[2]), output(replies[3]))
    together, *alone = Calls(directory, "poisoned").made
    assert [-2, -1, 2, 3] == sorted(together)
    assert [[n] for n in together] == alone


def test_answer_without_rows_is_an_error_on_both_protocols(
    server: Server, background: Ask
) -> None:
    """500 and INTERNAL name the output, its shape and the expected rows."""
    sent = [background(ask, server, "mean", row(1)) for ask in ASKS.values()]
    rest, grpc = (reply.result() for reply in sent)
    text = (
        "model 'mean' returned an invalid response: "
        "output 'mean' has the shape [1, 1], "
        "expected 2 rows, as many as the inputs have (max_batch_size)"
    )
    assert (500, text) == (rest.status, rest.error)
    assert ("INTERNAL", text) == (grpc.status, grpc.error)


def test_v1_and_v2_share_a_batch(
    server: Server, directory: Path, background: Ask
) -> None:
    """V1 instances are batched as rows, together with V2 requests."""
    path = "/v1/models/v1:predict"
    v1 = [background(server.post, path, json={"instances": [[n]]}) for n in (1, 2)]
    v2 = background(infer_rest, server, "v1", request([[3]], [1, 1]))
    assert [{"predictions": [[n]]} for n in (1.0, 2.0)] == [
        reply.result().json() for reply in v1
    ]  # fmt: skip
    assert [3] == output(v2.result())
    (call,) = Calls(directory, "v1").made
    assert [1, 2, 3] == sorted(call)


def test_kserve_model_gets_batches(server: Server, background: Ask) -> None:
    """A `kserve.Model` is called once for the requests of both protocols."""
    sent = {
        n: background(ask, server, "kserve", row(n, id=f"id-{n}"))
        for n, ask in enumerate(ASKS.values())
    }
    for n, reply in sent.items():
        assert ([2 * n], f"id-{n}") == (
            output(reply.result()),
            reply.result().document["id"],
        )
    stats = described(server, "rest", "stats", "kserve").document["model_stats"][0]
    assert (2, 1) == (stats["inference_count"], stats["execution_count"])


def test_lone_client_waits_for_the_delay_only(server: Server, directory: Path) -> None:
    """A request without company is answered after the delay."""
    for n, ask in enumerate(ASKS.values()):
        began = time.monotonic()
        assert [n] == output(ask(server, "delayed", row(n)))
        assert 0.199 < time.monotonic() - began < 20
    assert [[0], [1]] == Calls(directory, "delayed").made


def test_requests_beyond_max_queue_are_refused(
    server: Server, background: Ask, shut: Callable[[str], Calls]
) -> None:
    """A busy model answers what it accepts; the rest gets 503 or RESOURCE_EXHAUSTED."""
    calls = shut("full")
    sent = {
        n: background(ASKS["grpc" if n % 2 else "rest"], server, "full", row(n))
        for n in range(20)
    }
    wait_for(lambda: sum(reply.done() for reply in sent.values()) == 13, "refusals")
    text = "model 'full' has 3 requests waiting, which is its max_queue"
    refused = {n: reply.result() for n, reply in sent.items() if reply.done()}
    for n, reply in refused.items():
        assert (("RESOURCE_EXHAUSTED" if n % 2 else 503), text) == (
            reply.status,
            reply.error,
        )
        assert n % 2 or int(reply.headers["retry-after"]) > 0
    calls.open()
    answered = [n for n in sent if n not in refused]
    assert [[n] for n in answered] == [output(sent[n].result()) for n in answered]
    assert answered == sorted(calls.elements)


def test_request_that_waits_too_long_is_not_run(
    server: Server, background: Ask, shut: Callable[[str], Calls]
) -> None:
    """504 after timeout_s, and DEADLINE_EXCEEDED after the client's own deadline."""
    calls = {model: shut(model) for model in ("late", "patient")}
    first = {model: background(infer_rest, server, model, row(0)) for model in calls}
    wait_for(lambda: all(one.made for one in calls.values()), "the first calls")
    late = background(infer_rest, server, "late", row(1))
    patient = infer_grpc(server, "patient", row(1), timeout_s=0.3)
    assert "DEADLINE_EXCEEDED" == patient.status
    text = "model 'late' did not answer within 1 s"
    assert (504, text) == (late.result().status, late.result().error)
    for one in calls.values():
        one.open()
    assert 504 == first["late"].result().status
    assert [0] == output(first["patient"].result())
    for model, one in calls.items():
        assert [2] == output(infer_rest(server, model, row(2)))
        assert [[0], [2]] == one.made


def test_closed_connection_frees_its_place(
    server: Server, background: Ask, shut: Callable[[str], Calls]
) -> None:
    """A request whose connection closes is in no batch, and its place is free again."""
    calls = shut("left")
    first = background(infer_rest, server, "left", row(0))
    wait_for(lambda: calls.made, "the first call")
    body = json.dumps(row(1))
    clients = [HTTPConnection("127.0.0.1", server.http_port, timeout=30) for _ in "ab"]
    for client in clients:
        client.request("POST", "/v2/models/left/infer", body=body)
    ((refused, *_), *_) = select.select(
        [client.sock for client in clients], [], [], DEADLINE_S
    )
    for client in clients:  # the other one waits
        if client.sock is refused:
            assert 503 == client.getresponse().status
        client.close()
    labels = {"model_name": "left", "outcome": "Cancelled"}
    wait_for(lambda: metric(server, "oip_requests_total", **labels), "its leaving")
    assert "DEADLINE_EXCEEDED" == infer_grpc(server, "left", row(2), None, 0.3).status
    calls.open()
    assert [0] == output(first.result())
    wait_for(lambda: infer_rest(server, "left", row(3)).status == 200, "a free model")
    assert {0, 3} == {*calls.elements}


def test_reload_loses_no_waiting_request(
    server: Server, background: Ask, shut: Callable[[str], Calls]
) -> None:
    """The old instance answers what it accepted, the new one all later requests."""
    calls = shut("anew")
    sent = {
        n: background(ASKS["grpc" if n % 2 else "rest"], server, "anew", row(n))
        for n in range(5)
    }
    wait_for(lambda: sum(reply.done() for reply in sent.values()) == 1, "a refusal")
    reload = background(change, server, "rest", "load", "anew")

    def ask_until_accepted() -> Reply:
        while (reply := infer_rest(server, "anew", row(9))).status == 503:
            time.sleep(0.01)
        return reply

    sent[9] = background(ask_until_accepted)
    wait_for(lambda: [9] in calls.made, "a call of the new instance")
    assert not reload.done()
    calls.open()
    assert 200 == reload.result().status
    answered = [n for n, r in sent.items() if r.result().status in (200, "OK")]
    assert (5, True) == (len(answered), 9 in answered)
    assert [[n] for n in answered] == [output(sent[n].result()) for n in answered]
    assert answered == sorted(calls.elements)


END = {
    "waits": {"max_batch_size": 4, "max_queue": 1},
    "works": {"max_batch_size": 8, "max_batch_delay_ms": 1},
}


def test_stopping_server_loses_no_request(
    serve: Callable[..., Server], tmp_path: Path, background: Ask
) -> None:
    """After SIGTERM all accepted requests are answered, also those that still arrive.

    Each row that reached a handler has its answer at a client.
    """
    server = serve(
        *arguments(END), drain_delay_s=0.3, env={"BATCH_DIR": str(tmp_path)}
    ).wait_until_ready()
    waits, works = (Calls(tmp_path, model) for model in END)
    waits.shut()
    held = [
        background(ASKS["grpc" if n % 2 else "rest"], server, "waits", row(n))
        for n in range(6)
    ]
    wait_for(lambda: sum(reply.done() for reply in held) == 1, "a refusal")

    def keep_asking(start: int) -> list[float]:
        answers: list[float] = []
        for n in range(start, start + 100_000):
            try:
                reply = infer_rest(server, "works", row(n))
            except httpx.TransportError:
                return answers
            assert [n] == output(reply)
            answers.append(float(n))
        return answers

    clients = [background(keep_asking, n * 100_000) for n in range(8)]
    wait_for(lambda: len(works.made) > 20, "some work")
    server.process.send_signal(signal.SIGTERM)
    answers = [n for client in clients for n in client.result()]
    waits.open()
    statuses = Counter(str(reply.result().status) for reply in held)
    assert 5 == statuses["200"] + statuses["OK"]
    assert 0 == server.wait()
    assert sorted(answers) == sorted(works.elements)
    assert "Traceback" not in server.log
