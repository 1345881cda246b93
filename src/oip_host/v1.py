"""KServe's V1 protocol for handlers: instances to one input, outputs to predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from oip_host.datatypes import Datatype, from_list
from oip_host.errors import InvalidRequest, NotSupported
from oip_host.tensors import TensorData
from oip_host.types import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
    RequestInput,
    ResponseOutput,
)

__all__ = ["body", "request", "response"]


def body(content: Any, headers: Mapping[str, str]) -> Any:
    """A JSON body as its document, anything else as it is.

    KServe leaves it as bytes where the Content-Type has parameters (`; charset=utf-8`).
    Raises InvalidRequest.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    json = isinstance(content, bytes) and kind == "application/json"
    return _document(content) if json else content


def _document(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None


def request(content: Any, metadata: ModelMetadataResponse) -> InferenceRequest:
    """The V2 request for `{"instances": [...]}`, one instance a row of the input.

    Raises InvalidRequest, and NotSupported for a model that has not just one input.
    """
    if len(metadata.inputs) != 1:
        raise NotSupported(
            f"V1 needs a model with one input, '{metadata.name}' has "
            f"{len(metadata.inputs)}; ask POST /v2/models/{metadata.name}/infer"
        )
    if isinstance(content, bytes):  # KServe leaves it so for some Content-Types
        content = _document(content)
    instances = content.get("instances") if isinstance(content, dict) else None
    if not isinstance(instances, list):
        raise InvalidRequest("instances: expected an object with an array of them")
    tensor = metadata.inputs[0]
    datatype = Datatype(getattr(tensor.datatype, "value", tensor.datatype))
    try:
        array = from_list(instances, datatype)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"instances: {error}") from None
    data = RequestInput(
        name=tensor.name,
        shape=list(array.shape),
        datatype=datatype,
        data=TensorData(array),
    )
    return InferenceRequest(inputs=[data], outputs=[])


def response(_: InferenceRequest, answer: InferenceResponse) -> dict[str, Any]:
    """`{"predictions": [...]}`: the rows of the output, or of several by name."""
    columns = {tensor.name: _rows(tensor) for tensor in answer.outputs}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    if len({len(rows) for rows in columns.values()}) > 1:
        return {"predictions": columns}  # no rows in common: as TensorFlow Serving does
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _rows(tensor: ResponseOutput) -> list[Any]:
    array = tensor.as_numpy()
    if array.dtype == object:
        decode = np.vectorize(
            lambda element: element.decode(errors="replace"), [object]
        )
        array = decode(array) if array.size else array
    return np.atleast_1d(array).tolist()  # type: ignore[no-any-return]
