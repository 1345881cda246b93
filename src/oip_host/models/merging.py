"""Merging requests that fit together into one, and dealing its answer out again.

`merge` makes one request of several, `split` several answers of one; `prepare` and
`deal_out` do so around a call of the handler, with every failure in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from oip_handler.boundary import Encode, EncodedResponse
from oip_handler.errors import HandlerFault
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    as_dict,
    construct,
)
from oip_handler.tensors import TensorData
from oip_host.lanes.lane import contain
from oip_host.telemetry.context import RequestContext

__all__ = [
    "Batch",
    "BatchItem",
    "Outcome",
    "RunAlone",
    "batch_key",
    "count_rows",
    "deal_out",
    "merge",
    "prepare",
    "split",
]

BatchItem: TypeAlias = "tuple[InferenceRequest, Encode[Any], RequestContext]"
Outcome: TypeAlias = "EncodedResponse[Any] | Exception"

_CODEC = ("binary_data", "binary_data_output", "binary_data_size")
"""Parameters that say how a tensor travels, and nothing to the model."""


class RunAlone(Exception):
    """A batch failed, and the handler has to be called for each of its requests."""


def batch_key(request: InferenceRequest) -> tuple[Hashable, int] | None:
    """Return what fitting requests have in common, and the rows; None: runs alone."""
    rows = count_rows(request)
    if rows < 1:
        return None
    inputs = [
        (t.name, t.datatype, tuple(t.shape[1:]), _form(t.data), _key(t))
        for t in request.inputs
    ]
    outputs = [(output.name, _key(output)) for output in request.outputs or ()]
    return (_key(request), *inputs, *outputs), rows


def count_rows(request: InferenceRequest) -> int:
    """Return the first dimension that all inputs have in common, or 0."""
    first = {tensor.shape[0] if tensor.shape else 0 for tensor in request.inputs}
    return first.pop() if len(first) == 1 else 0


def _form(data: TensorData) -> Any:
    """Return what a handler that reads lists sees of a tensor beside its shape."""
    if data.array is None:  # as it comes from KServe's own server
        return type(data.root[0]) if isinstance(data.root, list) and data.root else None
    text = data.array.dtype == object and data.array.size
    return data.array.ndim, type(data.array.flat[0]) if text else None


def _parameters(message: Any) -> dict[str, Any]:
    """Return the parameters that requests in a batch have in common."""
    return {k: v for k, v in as_dict(message.parameters).items() if k not in _CODEC}


def _key(message: Any) -> Hashable:
    """Return the parameters by their looks: 1 is neither True nor 1.0."""
    return frozenset(
        (name, repr(value)) for name, value in _parameters(message).items()
    )


@dataclass(frozen=True)
class Batch:
    """The requests of one call, those that were rejected before it, and the rest."""

    items: Sequence[BatchItem]
    rejected: dict[int, Exception]
    """The errors of the check, by the place of the request."""
    places: Sequence[int]
    """The requests that the handler is called for."""

    @property
    def is_single(self) -> bool:
        """Whether the call is for one request, so that its failure is final."""
        return len(self.places) == 1

    def fail(self, error: Exception) -> list[Exception]:
        """Return the failure of each request; several have to run alone."""
        return [error] if self.is_single else [RunAlone() for _ in self.places]


def prepare(
    items: Sequence[BatchItem], check: Callable[[InferenceRequest], None]
) -> tuple[InferenceRequest | Exception, Batch]:
    """Return the request to call the handler with, and what `deal_out` needs.

    Each of several requests is checked by itself before. Where none is left, or they
    cannot be merged, an exception takes the place of the request.
    """
    rejected: dict[int, Exception] = {}
    for place, (request, *_) in enumerate(items if len(items) > 1 else ()):
        try:
            check(request)
        except Exception as error:
            rejected[place] = contain(error)
    places = [place for place in range(len(items)) if place not in rejected]
    batch = Batch(items, rejected, places)
    if not places:
        return RunAlone(), batch
    try:
        return merge([items[place][0] for place in places]), batch
    except Exception as error:
        return error, batch


def deal_out(answer: InferenceResponse | Exception, batch: Batch) -> list[Outcome]:
    """Return the outcome of each request, from the answer or the failure of the call.

    Where several requests fail together, each of them has to run alone.
    """
    requests = [batch.items[place][0] for place in batch.places]
    parts: Sequence[InferenceResponse | Exception]
    if isinstance(answer, Exception):
        parts = batch.fail(answer)
    else:
        try:
            parts = split(answer, requests)
        except Exception as error:
            parts = batch.fail(error)
    outcomes: dict[int, Outcome] = {**batch.rejected}
    for place, part in zip(batch.places, parts, strict=True):
        request, encode, _ = batch.items[place]
        outcomes[place] = _encode(part, request, encode)
    return [outcomes[place] for place in range(len(batch.items))]


def _encode(
    part: InferenceResponse | Exception, request: InferenceRequest, encode: Encode[Any]
) -> Outcome:
    if isinstance(part, Exception):
        return part
    try:
        return EncodedResponse(part.outputs, encode(request, part))
    except Exception as error:
        return error


def merge(requests: Sequence[InferenceRequest]) -> InferenceRequest:
    """Return one request, without an id, with the rows of all; they fit together."""
    first = requests[0]
    if len(requests) == 1:
        return first
    rows = sum(map(count_rows, requests))
    inputs = []
    for tensors in zip(*(request.inputs for request in requests), strict=True):
        arrays = [tensor.data.elements(tensor.datatype) for tensor in tensors]
        shape, data = [rows, *tensors[0].shape[1:]], TensorData(np.concatenate(arrays))
        inputs.append(_plain(tensors[0], shape=shape, data=data))
    outputs = [_plain(output) for output in first.outputs or ()]
    whole: InferenceRequest = _plain(first, id=None, inputs=inputs, outputs=outputs)
    return whole


def _plain(message: Any, **changed: Any) -> Any:
    shared = _parameters(message)
    parameters = Parameters.model_validate(shared) if shared else None
    return _copy_with(message, parameters=parameters, **changed)


def _copy_with(message: Any, **changed: Any) -> Any:
    return construct(type(message), {**message.__dict__, **changed})


def split(
    answer: InferenceResponse, requests: Sequence[InferenceRequest]
) -> Sequence[InferenceResponse | Exception]:
    """Deal out the rows of an answer to the requests, each with its own id.

    Where an output has not as many rows as the inputs, each gets that fault. A request
    whose inputs have no rows in common gets the whole answer.
    """
    ends = np.cumsum([count_rows(request) for request in requests]).tolist()
    for tensor in answer.outputs if ends[-1] else ():
        if tensor.shape[:1] != ends[-1:]:
            text = (
                f"model '{answer.model_name}' returned an invalid response: output "
                f"'{tensor.name}' has the shape {tensor.shape}, expected {ends[-1]} "
                "rows, as many as the inputs have (max_batch_size)"
            )
            return [HandlerFault(text) for _ in requests]
    arrays = [tensor.as_numpy() for tensor in answer.outputs]
    answers = []
    for request, end in zip(requests, ends, strict=True):
        rows = slice(end - count_rows(request), end) if end else ...
        parts = [array[rows] for array in arrays]
        outputs = [
            _copy_with(tensor, shape=list(part.shape), data=TensorData(part))
            for tensor, part in zip(answer.outputs, parts, strict=True)
        ]
        identity = answer.id if request.id is None else request.id
        answers.append(_copy_with(answer, id=identity, outputs=outputs))
    return answers
