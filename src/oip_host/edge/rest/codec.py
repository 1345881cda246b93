"""V2 over HTTP: request bodies to messages, and messages to response bodies.

Follows "Inference" in `inference_rest.md` and Triton's `extension_binary_data.md`. A
fault is an InvalidRequest whose text names the field, what was found and what was
expected.
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
from oip_host.edge.common.field_checks import found
from oip_host.edge.rest import large_json

__all__ = ["decode", "decode_raw", "encode", "optional_object"]

T = TypeVar("T")

_KINDS: dict[type[Any], str] = {str: "a string", list: "an array", dict: "an object"}


def decode(body: bytes, header_length: int | None = None) -> InferenceRequest:
    """The request in a body; `header_length` is the size in bytes of its JSON part.

    What follows the JSON part are the binary tensors, in the order of the inputs that
    say `binary_data_size`. Raises InvalidRequest.
    """
    size = len(body) if header_length is None else header_length
    if not 0 <= size <= len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length: found {header_length}, "
            f"expected 0 to {len(body)}, the size of the body"
        )
    document = _json(body, size)
    rest = _NOTHING if size == len(body) else _Rest(memoryview(body)[size:])
    inputs = _field(document, "inputs", list, "")
    checks.some(inputs)
    tensors = [_input(entry, f"inputs[{i}]", rest) for i, entry in enumerate(inputs)]
    rest.finish()
    if len(tensors) > 1:
        checks.unique([tensor.name for tensor in tensors], "inputs")
    parameters = _parameters(document, "")
    _flag(parameters, "binary_data_output", "")
    return construct(
        InferenceRequest,
        {
            "id": _optional(document, "id", str, ""),
            "parameters": parameters,
            "inputs": tensors,
            "outputs": _wanted(document) if "outputs" in document else [],
        },
    )


def decode_raw(body: bytes, metadata: ModelMetadataResponse) -> InferenceRequest:
    """The request in a body that is nothing but the data of a model's only input.

    The model's metadata tell its datatype and shape; the outputs are binary, too (see
    "Raw Binary Request" in `extension_binary_data.md`). Raises InvalidRequest.
    """
    where = "Inference-Header-Content-Length: found 0, which needs a model"
    if len(metadata.inputs) != 1:
        raise InvalidRequest(
            f"{where} with one input, but '{metadata.name}' has {len(metadata.inputs)}"
        )
    tensor = metadata.inputs[0]
    datatype = checks.datatype(tensor.datatype, "the model's metadata")
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
    given = RequestInput(
        name=tensor.name, shape=shape, datatype=datatype, data=TensorData(array)
    )
    binary = Parameters.model_validate({"binary_data_output": True})
    return InferenceRequest(inputs=[given], parameters=binary, outputs=[])


class _Rest:
    """The binary tensors behind the JSON part, taken one after the other."""

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

    def finish(self) -> None:
        if self._at != len(self._view):
            raise InvalidRequest(
                f"the body has {len(self._view) - self._at} bytes after its last tensor"
            )


_NOTHING = _Rest(memoryview(b""))


def _json(body: bytes, size: int) -> dict[str, Any]:
    try:
        if size >= large_json.LARGE:
            document = large_json.loads(body, size)
        else:
            document = orjson.loads(body if size == len(body) else body[:size])
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if type(document) is not dict:
        raise InvalidRequest(f"the body is {found(document)}, expected an object")
    return document


def optional_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, empty for an empty body; raises InvalidRequest."""
    return _json(body, len(body)) if body.strip() else {}


def _optional(entry: dict[str, Any], name: str, kind: type[T], where: str) -> T | None:
    """A field of one kind, or None where it is absent or null."""
    value = entry.get(name)
    if value is None or type(value) is kind:
        return value
    raise InvalidRequest(
        f"{where}{name}: found {found(value)}, expected {_KINDS[kind]}"
    )


def _field(entry: dict[str, Any], name: str, kind: type[T], where: str) -> T:
    value = entry.get(name)
    if type(value) is kind:
        return value
    shown = "missing" if value is None else f"found {found(value)}"
    raise InvalidRequest(f"{where}{name}: {shown}, expected {_KINDS[kind]}")


def _object(entry: Any, where: str) -> dict[str, Any]:
    if type(entry) is not dict:
        raise InvalidRequest(f"{where}: found {found(entry)}, expected an object")
    return entry


def _parameters(entry: dict[str, Any], where: str) -> Parameters | None:
    if "parameters" not in entry:
        return None
    return checks.parameters(_optional(entry, "parameters", dict, where), where)


def _wanted(document: dict[str, Any]) -> list[RequestOutput]:
    """The outputs that a request names."""
    wanted = []
    for i, entry in enumerate(_optional(document, "outputs", list, "") or ()):
        where = f"outputs[{i}]"
        fields = _object(entry, where)
        name = _field(fields, "name", str, f"{where}.")
        parameters = _parameters(fields, f"{where}.")
        _flag(parameters, "binary_data", f"{where}.")
        wanted.append(RequestOutput(name=name, parameters=parameters))
    checks.unique([output.name for output in wanted], "outputs")
    return wanted


def _flag(parameters: Parameters | None, name: str, where: str) -> None:
    """Refuse a parameter of this codec that is neither true nor false."""
    if parameters is None:
        return
    value = as_dict(parameters).get(name, False)
    if type(value) is not bool:
        raise InvalidRequest(
            f"{where}parameters.{name}: found {found(value)}, expected true or false"
        )


def _input(entry: Any, where: str, rest: _Rest) -> RequestInput:
    inside = f"{where}."
    fields = _object(entry, where)
    name = _field(fields, "name", str, inside)
    shape = checks.dimensions(_field(fields, "shape", list, inside), where)
    datatype = checks.datatype(_field(fields, "datatype", str, inside), where)
    parameters = _parameters(fields, inside)
    size = parameters and as_dict(parameters).get("binary_data_size")
    try:
        if size is None:
            array = _given(fields, inside, datatype)
        elif fields.get("data") is not None:
            raise ValueError("has both data and binary_data_size, expected one of them")
        elif type(size) is not int or size < 0:
            raise ValueError(
                f"binary_data_size is {found(size)}, expected a size in bytes"
            )
        else:
            array = from_raw(rest.take(size, where), datatype)
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


def _given(fields: dict[str, Any], inside: str, datatype: Datatype) -> Array:
    data = fields.get("data")
    if type(data) is np.ndarray:
        return from_numbers(data, datatype)
    return from_list(_field(fields, "data", list, inside), datatype)


def encode(
    request: InferenceRequest, response: InferenceResponse
) -> tuple[bytes, int | None]:
    """The body of an answer, and the size of its JSON part where tensors follow it.

    An output is binary where the request says `binary_data` for it, or
    `binary_data_output` for all. Raises HandlerFault where JSON cannot carry a value.
    """
    wanted = _Wanted(request)
    buffers: list[Any] = []
    outputs = []
    for tensor in response.outputs:
        described = _described(tensor)
        if wanted.binary(tensor.name):
            raw = to_raw(tensor.as_numpy())
            described.setdefault("parameters", {})["binary_data_size"] = len(raw)
            buffers.append(raw)
        else:
            described["data"] = _json_elements(tensor)
        outputs.append(described)
    document: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version:
        document["model_version"] = response.model_version
    if response.id is not None:
        document["id"] = response.id
    if response.parameters is not None:
        parameters = _finite(response.parameters)
        parameters.pop("binary_data_output", None)  # the request's, which passed on
        if parameters:
            document["parameters"] = parameters
    document["outputs"] = outputs
    try:
        head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise HandlerFault(f"JSON cannot carry the answer: {error}") from None
    if b"null" in head:  # what orjson makes of a NaN, if it is not in some text
        _refuse_not_finite(response, wanted)
    if not buffers:
        return head, None
    return b"".join((head, *buffers)), len(head)


class _Wanted:
    """Which outputs a request wants binary."""

    def __init__(self, request: InferenceRequest) -> None:
        self._all = False
        if request.parameters is not None:
            parameters = as_dict(request.parameters)
            self._all = parameters.get("binary_data_output", False)
        self._named = {
            output.name: as_dict(output.parameters).get("binary_data", self._all)
            for output in request.outputs or ()
        }

    def binary(self, name: str) -> bool:
        return bool(self._named.get(name, self._all))


def _finite(parameters: Any) -> dict[str, Any]:
    """Parameters of an answer, without one of which JSON would make a null."""
    plain = as_dict(parameters)
    for name, value in plain.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise HandlerFault(
                f"parameter '{name}' is {value}, which JSON cannot carry"
            )
    return plain


def _described(tensor: ResponseOutput) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": tensor.name,
        "shape": tensor.shape,
        "datatype": tensor.datatype.value,
    }
    if tensor.parameters is not None:
        parameters = _finite(tensor.parameters)
        parameters.pop("binary_data_size", None)  # an input's, which was passed on
        if parameters:
            described["parameters"] = parameters
    return described


def _json_elements(tensor: ResponseOutput) -> NDArray[Any] | list[str]:
    """The elements in row-major order, as orjson writes them."""
    if tensor.datatype is Datatype.BYTES:
        try:
            return [element.decode() for element in tensor.as_numpy().ravel()]
        except UnicodeDecodeError:
            raise _not_json(tensor, "bytes that are not UTF-8") from None
    flat = tensor.data.elements(tensor.datatype).ravel()
    if tensor.datatype is Datatype.BF16:
        flat = flat.astype(np.float32)
    return flat


def _refuse_not_finite(response: InferenceResponse, wanted: _Wanted) -> None:
    """Raise HandlerFault for an output with a NaN or an infinity that JSON carries."""
    for tensor in response.outputs:
        array = tensor.data.elements(tensor.datatype)
        if array.dtype == object or wanted.binary(tensor.name):
            continue
        if not np.isfinite(array).all():
            raise _not_json(tensor, "NaN or an infinity")


def _not_json(tensor: ResponseOutput, what: str) -> HandlerFault:
    return HandlerFault(
        f"output '{tensor.name}' holds {what}, which JSON cannot carry; "
        "ask for it with the parameter binary_data"
    )
