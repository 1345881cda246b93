"""V2 over gRPC: protobuf to messages, and messages to protobuf.

Follows `inference_grpc.md`; the checks and their texts are those of `rest.codec`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from oip_handler.datatypes import Array, from_list, from_raw, numpy_dtype, to_raw
from oip_handler.errors import HandlerFault, InvalidRequest
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    as_dict,
    construct,
)
from oip_handler.tensors import TensorData
from oip_host.edge.common import field_checks as checks
from oip_host.edge.grpc import wire as grpc_wire
from oip_host.edge.grpc.messages import message

__all__ = ["CONTENTS", "WireRequest", "decode", "encode", "parse", "parse_message"]

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The typed field of each datatype; FP16 and BF16 have none and travel raw only."""

_Request = message("ModelInferRequest")
_Response = message("ModelInferResponse")
_Output = message("ModelInferResponse.InferOutputTensor")
_OUTPUTS, _RAW = 5, 6  # fields of ModelInferResponse
_CONTENTS = 5  # field of InferOutputTensor


class WireRequest(NamedTuple):
    """A ModelInferRequest: protobuf's message, and the contents that are not in it."""

    message: Any
    raw: Sequence[bytes | memoryview]
    """All of `raw_input_contents`."""
    typed: Mapping[int, tuple[str, Array]]
    """The elements of some inputs, by their number, with the name of the field."""


def parse(
    data: bytes, least: int = grpc_wire.LEAST, least_raw: int = grpc_wire.LEAST_RAW
) -> WireRequest:
    """Return the ModelInferRequest in `data`; raise InvalidRequest.

    From `least` bytes on typed contents are views on `data` where that is possible,
    and raw contents from `least_raw` bytes on.
    """
    parts = grpc_wire.split(data, least, least_raw)
    if parts is None:
        whole = parse_message(data, _Request)
        return WireRequest(whole, whole.raw_input_contents, {})
    return WireRequest(parse_message(parts.rest, _Request), parts.raw, parts.typed)


def parse_message(data: bytes, kind: Any) -> Any:
    """Return the protobuf message in `data`; raise InvalidRequest."""
    try:
        return kind.FromString(data)
    except (DecodeError, UnicodeDecodeError):  # of protobuf in C, and in Python
        name = kind.DESCRIPTOR.name
        raise InvalidRequest(f"the message is not a valid {name}") from None


def decode(received: WireRequest) -> InferenceRequest:
    """Return the host's message for a protobuf request; raise InvalidRequest."""
    wire, raw, typed = received
    inputs = list(wire.inputs)
    checks.check_inputs(inputs)
    if raw and len(raw) != len(inputs):
        raise InvalidRequest(
            f"raw_input_contents: found {len(raw)}, expected {len(inputs)}, "
            "one for each input"
        )
    tensors = [
        _decode_input(tensor, f"inputs[{i}]", raw[i] if raw else None, typed.get(i))
        for i, tensor in enumerate(inputs)
    ]
    checks.check_names([tensor.name for tensor in tensors], "inputs")
    outputs = _decode_outputs(wire.outputs) if wire.outputs else []
    return construct(
        InferenceRequest,
        {
            "id": wire.id or None,
            "parameters": _decode_parameters(wire.parameters, ""),
            "inputs": tensors,
            "outputs": outputs,
        },
    )


def _decode_outputs(outputs: Any) -> list[RequestOutput]:
    """Return the outputs that a request names."""
    decoded = [
        RequestOutput(
            name=output.name,
            parameters=_decode_parameters(output.parameters, f"outputs[{i}]."),
        )
        for i, output in enumerate(outputs)
    ]
    checks.check_names([output.name for output in decoded], "outputs")
    return decoded


def _decode_input(
    tensor: Any,
    where: str,
    raw: bytes | memoryview | None,
    typed: tuple[str, Array] | None,
) -> RequestInput:
    name = tensor.name
    shape = checks.check_shape(tensor.shape, where)
    datatype = checks.check_datatype(tensor.datatype, where)
    parameters = _decode_parameters(tensor.parameters, f"{where}.")
    fields, elements = ([typed[0]], typed[1]) if typed else (_list_fields(tensor), None)
    try:
        if raw is None:
            array = _decode_typed(tensor, fields, elements)
        elif fields:
            raise ValueError(f"has both {fields[0]} and raw_input_contents")
        else:
            array = from_raw(raw, tensor.datatype)
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


def _list_fields(tensor: Any) -> list[str]:
    """Return the names of the typed contents' fields that have elements."""
    if not tensor.HasField("contents"):
        return []
    return [field.name for field, _ in tensor.contents.ListFields()]


def _decode_typed(tensor: Any, fields: list[str], elements: Array | None) -> Array:
    """Return the elements of typed contents, read-only (as raw ones) but for BYTES."""
    datatype = tensor.datatype
    expected = CONTENTS.get(datatype)
    if expected is None:
        raise ValueError(f"{datatype} travels in raw_input_contents only")
    wrong = [name for name in fields if name != expected]
    if wrong:
        raise ValueError(f"has {wrong[0]}, expected {expected} for {datatype}")
    if elements is None:
        array = from_list(list(getattr(tensor.contents, expected)), datatype)
    else:
        array = elements.astype(numpy_dtype(datatype), copy=False)
        if array.dtype != elements.dtype and not np.array_equal(array, elements):
            array = from_list(elements.tolist(), datatype)  # raises, with the element
    if datatype != "BYTES":
        array.flags.writeable = False
    return array


def _decode_parameters(parameters: Mapping[str, Any], where: str) -> Parameters | None:
    if not parameters:
        return None
    plain = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        plain[name] = getattr(value, choice) if choice else None
    return checks.check_parameters(plain, where)


def encode(received: WireRequest, response: InferenceResponse) -> bytes:
    """Return the protobuf answer, raw to a raw request and typed to a typed one.

    An FP16 or BF16 output makes the whole answer raw. Raises HandlerFault for a
    parameter that the protocol cannot carry.
    """
    tensors = response.outputs
    raw = bool(received.raw) or not CONTENTS.keys() >= {
        tensor.datatype.value for tensor in tensors
    }
    wire = _Response(
        model_name=response.model_name,
        model_version=response.model_version or "",
        id=response.id or "",
    )
    _set_parameters(wire.parameters, response.parameters)
    if raw:
        for tensor in tensors:
            _describe(wire.outputs.add(), tensor)
        last = [
            grpc_wire.encode_field(_RAW, to_raw(each.as_numpy())) for each in tensors
        ]
    else:
        last = [
            grpc_wire.encode_field(_OUTPUTS, *_encode_typed(each)) for each in tensors
        ]
    return b"".join([wire.SerializeToString(), *chain.from_iterable(last)])


def _describe(output: Any, tensor: ResponseOutput) -> None:
    """Fill in an output without its contents."""
    output.name = tensor.name
    output.datatype = tensor.datatype.value
    output.shape.extend(tensor.shape)
    _set_parameters(output.parameters, tensor.parameters)


def _encode_typed(tensor: ResponseOutput) -> list[bytes | memoryview]:
    """Return the pieces of an output with typed contents."""
    wire = _Output()
    _describe(wire, tensor)
    array, name = tensor.as_numpy(), CONTENTS[tensor.datatype.value]
    contents = grpc_wire.pack(array, name)
    if contents:
        return [wire.SerializeToString(), *grpc_wire.encode_field(_CONTENTS, *contents)]
    getattr(wire.contents, name).extend(array.ravel().tolist())
    return [wire.SerializeToString()]


def _set_parameters(target: Any, parameters: Parameters | None) -> None:
    if parameters is None:
        return
    for name, value in as_dict(parameters).items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            target[name].int64_param = value
        elif isinstance(value, int) and 0 <= value < 2**64:
            target[name].uint64_param = value
        elif isinstance(value, float):
            target[name].double_param = value
        elif isinstance(value, str):
            target[name].string_param = value
        else:
            raise HandlerFault(
                f"parameter '{name}' is a {type(value).__name__}, "
                "which gRPC cannot carry"
            )
