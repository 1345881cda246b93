"""KServe's V1 protocol for handlers: instances to inputs, outputs to predictions.

An instance is a row of the model's one input, or an object with a row of each input by
name, as TensorFlow Serving has it (its "row format"). So is `{"b64": "<base64>"}`, the
bytes of an element of BYTES.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from oip_handler.datatypes import Datatype, datatype_name, from_list, unnest
from oip_handler.errors import InvalidRequest, NotSupported
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelMetadataResponse,
    RequestInput,
    ResponseOutput,
)
from oip_handler.tensors import TensorData

__all__ = ["Body", "body", "request", "response"]

_ENCODED = {"b64"}
"""The keys of an object that stands for bytes."""


class Body(dict[str, Any]):
    """A JSON object as KServe gives it to a model, which decodes as its bytes did.

    Models written for KServe up to 0.9, those in its documents on Ray Serve too, begin
    with `json.loads(payload.decode("utf-8"))`.
    """

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the object as JSON text."""
        return orjson.dumps(self).decode()


def body(content: Any, headers: Mapping[str, str]) -> Any:
    """Parse a JSON body, and return anything else as it is.

    KServe leaves it as bytes where the Content-Type has parameters (`; charset=utf-8`).
    Raises InvalidRequest.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if isinstance(content, bytes) and kind == "application/json":
        content = _document(content)
    return Body(content) if isinstance(content, dict) else content


def _document(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None


def request(content: Any, metadata: ModelMetadataResponse) -> InferenceRequest:
    """Return the V2 request for `{"instances": [...]}`, a row for each instance.

    Raises InvalidRequest, and NotSupported for a model that has no input.
    """
    if not metadata.inputs:
        raise NotSupported(
            f"V1 needs a model with an input, '{metadata.name}' has none; "
            f"ask POST /v2/models/{metadata.name}/infer"
        )
    if isinstance(content, bytes):  # KServe leaves it so for some Content-Types
        content = _document(content)
    instances = content.get("instances") if isinstance(content, dict) else None
    if not isinstance(instances, list):
        raise InvalidRequest("instances: expected an object with an array of them")
    columns = _columns(instances, [tensor.name for tensor in metadata.inputs])
    inputs = []
    for tensor, values in zip(metadata.inputs, columns, strict=True):
        try:
            inputs.append(_input(tensor, values))
        except (TypeError, ValueError) as error:
            named = f" '{tensor.name}':" if len(columns) > 1 else ""
            raise InvalidRequest(f"instances:{named} {error}") from None
    return InferenceRequest(inputs=inputs, outputs=[])


def _columns(instances: list[Any], names: Sequence[str]) -> list[list[Any]]:
    """Return the rows of each input, in the order of the names."""
    if len(names) == 1 and not (instances and _is_row(instances[0])):
        return [instances]
    expected = set(names)
    for i, instance in enumerate(instances):
        if not isinstance(instance, dict) or instance.keys() != expected:
            raise InvalidRequest(
                f"instances: element {i} {_describe_mismatch(instance, names)}"
            )
    return [[instance[name] for instance in instances] for name in names]


def _is_row(instance: Any) -> bool:
    """Return whether it has inputs by name, and is not the bytes of an element."""
    return isinstance(instance, dict) and instance.keys() != _ENCODED


def _describe_mismatch(instance: Any, names: Sequence[str]) -> str:
    expected = f"expected an object with {_list_names(names)}"
    if not isinstance(instance, dict):
        return f"is not an object, {expected}"
    missing = [name for name in names if name not in instance]
    unknown = [name for name in instance if name not in names]
    faults = {"has no": missing, "has the unknown": unknown}
    said = [f"{fault} {_list_names(found)}" for fault, found in faults.items() if found]
    return f"{' and '.join(said)}, {expected}"


def _list_names(names: Sequence[str]) -> str:
    """List names for an error text: the first five, and how many more there are."""
    shown = ", ".join(f"'{name[:40]}'" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _input(tensor: MetadataTensor, values: list[Any]) -> RequestInput:
    """Make one input of its rows; TypeError or ValueError where they do not fit."""
    datatype = Datatype(datatype_name(tensor.datatype))
    if datatype is Datatype.BYTES:
        elements, shape = unnest(values)
        array = from_list(_decode_base64(elements), datatype).reshape(shape)
    else:
        array = from_list(values, datatype)
    return RequestInput(
        name=tensor.name,
        shape=list(array.shape),
        datatype=datatype,
        data=TensorData(array),
    )


def _decode_base64(elements: list[Any]) -> list[Any]:
    """Return the elements, with the bytes of each `{"b64": "<base64>"}`.

    Whitespace in it does not count. Raises ValueError where it is no base64.
    """
    decoded = list(elements)
    for i, element in enumerate(elements):
        if isinstance(element, dict) and element.keys() == _ENCODED:
            text = element["b64"]
            if not isinstance(text, str):
                raise ValueError(f"element {i} has no text for 'b64', expected base64")
            try:
                decoded[i] = base64.b64decode("".join(text.split()), validate=True)
            except ValueError as error:
                raise ValueError(f"element {i} is not base64: {error}") from None
    return decoded


def response(_: InferenceRequest, answer: InferenceResponse) -> dict[str, Any]:
    """Return `{"predictions": [...]}`: rows of the output, or of several by name."""
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
