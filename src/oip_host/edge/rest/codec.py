"""V2 over HTTP: request bodies to messages, and messages to response bodies.

Follows "Inference" in `inference_rest.md` and Triton's `extension_binary_data.md`. A
fault of a body is an InvalidRequest whose text names the field, what was found and
what was expected.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from oip_handler.datatypes import (
    Array,
    Datatype,
    describe_value,
    from_list,
    from_numbers,
    from_raw,
    to_raw,
)
from oip_handler.errors import HandlerFault, InvalidRequest
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    as_dict,
    construct,
)
from oip_handler.tensors import TensorData
from oip_host.edge.common import field_checks as checks
from oip_host.edge.rest import large_json

__all__ = ["decode", "decode_object", "decode_raw", "encode"]

T = TypeVar("T")

_EXPECTED: dict[type[Any], str] = {
    str: "a string",
    list: "an array",
    dict: "an object",
}


def decode(body: bytes, header_length: int | None = None) -> InferenceRequest:
    """Return the request in a body; `header_length` is the size of its JSON, in bytes.

    The binary tensors follow the JSON in the order of the inputs that have a
    `binary_data_size`. Raises InvalidRequest.
    """
    size = len(body) if header_length is None else header_length
    if not 0 <= size <= len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length: found {header_length}, "
            f"expected 0 to {len(body)}, the size of the body"
        )
    document = _load_object(body, size)
    binary = _NO_BINARY if size == len(body) else _BinaryPart(memoryview(body)[size:])
    inputs = _require_field(document, "inputs", list, "")
    checks.check_inputs(inputs)
    tensors = [
        _decode_input(entry, f"inputs[{i}]", binary) for i, entry in enumerate(inputs)
    ]
    binary.check_end()
    if len(tensors) > 1:
        checks.check_names([tensor.name for tensor in tensors], "inputs")
    parameters = _decode_parameters(document, "")
    _check_flag(parameters, "binary_data_output", "")
    return construct(
        InferenceRequest,
        {
            "id": _get_field(document, "id", str, ""),
            "parameters": parameters,
            "inputs": tensors,
            "outputs": _decode_outputs(document) if "outputs" in document else [],
        },
    )


def decode_raw(body: bytes, metadata: ModelMetadataResponse) -> InferenceRequest:
    """Return the request in a body that holds the data of a model's only input.

    The model's metadata have its datatype and shape; the outputs are binary, too (see
    "Raw Binary Request" in `extension_binary_data.md`). Raises InvalidRequest.
    """
    where = "Inference-Header-Content-Length: found 0, which needs a model"
    if len(metadata.inputs) != 1:
        raise InvalidRequest(
            f"{where} with one input, but '{metadata.name}' has {len(metadata.inputs)}"
        )
    tensor = metadata.inputs[0]
    datatype = checks.check_datatype(tensor.datatype, "the model's metadata")
    shape = list(tensor.shape)
    if datatype is Datatype.BYTES:
        if any(size not in (1, -1) for size in shape):
            raise InvalidRequest(f"{where} whose BYTES input has the shape [1]")
        shape = [1] * len(shape)
        body = len(body).to_bytes(4, "little") + body
    elif shape.count(-1) > 1:
        raise InvalidRequest(f"{where} with one dimension of any size at most")
    try:
        array = from_raw(body, datatype)
        if -1 in shape:
            fixed = -math.prod(shape)
            shape[shape.index(-1)] = array.size // fixed if fixed else 0
    except ValueError as error:
        raise InvalidRequest(f"input '{tensor.name}': {error}") from None
    only_input = RequestInput(
        name=tensor.name, shape=shape, datatype=datatype, data=TensorData(array)
    )
    binary = Parameters.model_validate({"binary_data_output": True})
    return InferenceRequest(inputs=[only_input], parameters=binary, outputs=[])


class _BinaryPart:
    """The binary tensors behind the JSON part, in their order."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def take(self, size: int, where: str) -> memoryview:
        left = len(self._view) - self._at
        if size > left:
            raise InvalidRequest(
                f"{where}.parameters.binary_data_size: found {size}, "
                f"but only {left} bytes are left in the body"
            )
        self._at += size
        return self._view[self._at - size : self._at]

    def check_end(self) -> None:
        if self._at != len(self._view):
            raise InvalidRequest(
                f"the body has {len(self._view) - self._at} bytes after its last tensor"
            )


_NO_BINARY = _BinaryPart(memoryview(b""))


def _load_object(body: bytes, size: int) -> dict[str, Any]:
    try:
        if size >= large_json.LARGE:
            document = large_json.loads(body, size)
        else:
            document = orjson.loads(body if size == len(body) else body[:size])
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if type(document) is not dict:
        raise InvalidRequest(
            f"the body is {describe_value(document)}, expected an object"
        )
    return document


def decode_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body, {} for an empty one; raise InvalidRequest."""
    return _load_object(body, len(body)) if body.strip() else {}


def _get_field(entry: dict[str, Any], name: str, kind: type[T], where: str) -> T | None:
    """Return a field of one kind, or None where it is absent or null."""
    value = entry.get(name)
    if value is None or type(value) is kind:
        return value
    raise InvalidRequest(
        f"{where}{name}: found {describe_value(value)}, expected {_EXPECTED[kind]}"
    )


def _require_field(entry: dict[str, Any], name: str, kind: type[T], where: str) -> T:
    value = entry.get(name)
    if type(value) is kind:
        return value
    shown = "missing" if value is None else f"found {describe_value(value)}"
    raise InvalidRequest(f"{where}{name}: {shown}, expected {_EXPECTED[kind]}")


def _require_object(entry: Any, where: str) -> dict[str, Any]:
    if type(entry) is not dict:
        raise InvalidRequest(
            f"{where}: found {describe_value(entry)}, expected an object"
        )
    return entry


def _decode_parameters(entry: dict[str, Any], where: str) -> Parameters | None:
    if "parameters" not in entry:
        return None
    plain = _get_field(entry, "parameters", dict, where)
    return checks.check_parameters(plain, where)


def _decode_outputs(document: dict[str, Any]) -> list[RequestOutput]:
    """Return the outputs that a request names."""
    outputs = []
    for i, entry in enumerate(_get_field(document, "outputs", list, "") or ()):
        where = f"outputs[{i}]"
        fields = _require_object(entry, where)
        name = _require_field(fields, "name", str, f"{where}.")
        parameters = _decode_parameters(fields, f"{where}.")
        _check_flag(parameters, "binary_data", f"{where}.")
        outputs.append(RequestOutput(name=name, parameters=parameters))
    checks.check_names([output.name for output in outputs], "outputs")
    return outputs


def _check_flag(parameters: Parameters | None, name: str, where: str) -> None:
    """Reject a parameter of this codec that is neither true nor false."""
    if parameters is None:
        return
    value = as_dict(parameters).get(name, False)
    if type(value) is not bool:
        raise InvalidRequest(
            f"{where}parameters.{name}: found {describe_value(value)}, "
            "expected true or false"
        )


def _decode_input(entry: Any, where: str, binary: _BinaryPart) -> RequestInput:
    inside = f"{where}."
    fields = _require_object(entry, where)
    name = _require_field(fields, "name", str, inside)
    shape = checks.check_shape(_require_field(fields, "shape", list, inside), where)
    datatype = checks.check_datatype(
        _require_field(fields, "datatype", str, inside), where
    )
    parameters = _decode_parameters(fields, inside)
    size = parameters and as_dict(parameters).get("binary_data_size")
    try:
        if size is None:
            array = _decode_data(fields, inside, datatype)
        elif fields.get("data") is not None:
            raise ValueError("has both data and binary_data_size, expected only one")
        elif type(size) is not int or size < 0:
            raise ValueError(
                f"binary_data_size is {describe_value(size)}, expected a size in bytes"
            )
        else:
            array = from_raw(binary.take(size, where), datatype)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"input '{name}': {error}") from None
    return construct(
        RequestInput,
        {
            "name": name,
            "shape": shape,
            "datatype": datatype,
            "parameters": parameters,
            "data": TensorData(array),
        },
    )


def _decode_data(fields: dict[str, Any], inside: str, datatype: Datatype) -> Array:
    data = fields.get("data")
    if type(data) is np.ndarray:
        return from_numbers(data, datatype)
    return from_list(_require_field(fields, "data", list, inside), datatype)


def encode(
    request: InferenceRequest, response: InferenceResponse
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the size of its JSON where tensors follow it.

    An output is binary where the request has `binary_data` for it, or
    `binary_data_output` for all. Raises HandlerFault where JSON cannot carry a value.
    """
    choice = _BinaryChoice(request)
    buffers: list[Any] = []
    outputs = []
    for tensor in response.outputs:
        entry = _describe_output(tensor)
        if choice.is_binary(tensor.name):
            raw = to_raw(tensor.as_numpy())
            entry.setdefault("parameters", {})["binary_data_size"] = len(raw)
            buffers.append(raw)
        else:
            entry["data"] = _list_elements(tensor)
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version:
        document["model_version"] = response.model_version
    if response.id is not None:
        document["id"] = response.id
    if response.parameters is not None:
        parameters = _json_parameters(response.parameters)
        parameters.pop("binary_data_output", None)  # the request's, from the handler
        if parameters:
            document["parameters"] = parameters
    document["outputs"] = outputs
    try:
        head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise HandlerFault(f"JSON cannot carry the answer: {error}") from None
    if b"null" in head:  # orjson writes a NaN so; it may be in a text, too
        _reject_not_finite(response, choice)
    if not buffers:
        return head, None
    return b"".join((head, *buffers)), len(head)


class _BinaryChoice:
    """The outputs that a request wants binary."""

    def __init__(self, request: InferenceRequest) -> None:
        self._all = False
        if request.parameters is not None:
            parameters = as_dict(request.parameters)
            self._all = parameters.get("binary_data_output", False)
        self._by_name = {
            output.name: as_dict(output.parameters).get("binary_data", self._all)
            for output in request.outputs or ()
        }

    def is_binary(self, name: str) -> bool:
        return bool(self._by_name.get(name, self._all))


def _json_parameters(parameters: Any) -> dict[str, Any]:
    """Return parameters of an answer; raise HandlerFault for a NaN or an infinity."""
    plain = as_dict(parameters)
    for name, value in plain.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise HandlerFault(
                f"parameter '{name}' is {value}, which JSON cannot carry"
            )
    return plain


def _describe_output(tensor: ResponseOutput) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": tensor.name,
        "shape": tensor.shape,
        "datatype": tensor.datatype.value,
    }
    if tensor.parameters is not None:
        parameters = _json_parameters(tensor.parameters)
        parameters.pop("binary_data_size", None)  # an input's, from the handler
        if parameters:
            entry["parameters"] = parameters
    return entry


def _list_elements(tensor: ResponseOutput) -> NDArray[Any] | list[str]:
    """Return the elements in row-major order, in a form that orjson writes."""
    if tensor.datatype is Datatype.BYTES:
        try:
            return [element.decode() for element in tensor.as_numpy().ravel()]
        except UnicodeDecodeError:
            raise _json_fault(tensor, "bytes that are not UTF-8") from None
    flat = tensor.data.elements(tensor.datatype).ravel()
    if tensor.datatype is Datatype.BF16:
        flat = flat.astype(np.float32)
    return flat


def _reject_not_finite(response: InferenceResponse, choice: _BinaryChoice) -> None:
    """Raise HandlerFault for an output in JSON that holds a NaN or an infinity."""
    for tensor in response.outputs:
        array = tensor.data.elements(tensor.datatype)
        if array.dtype == object or choice.is_binary(tensor.name):
            continue
        if not np.isfinite(array).all():
            raise _json_fault(tensor, "NaN or an infinity")


def _json_fault(tensor: ResponseOutput, what: str) -> HandlerFault:
    return HandlerFault(
        f"output '{tensor.name}' holds {what}, which JSON cannot carry; "
        "ask for it with the parameter binary_data"
    )
