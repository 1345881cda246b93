"""V2 over gRPC: protobuf to messages, and messages to protobuf.

Follows `inference_grpc.md`; the checks and their texts are those of `rest_codec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

from oip_host.datatypes import from_list, from_raw, to_raw
from oip_host.edge import checks
from oip_host.edge.grpc_messages import message
from oip_host.errors import HandlerFault, InvalidRequest
from oip_host.tensors import TensorData
from oip_host.types import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    as_dict,
)

__all__ = ["CONTENTS", "decode", "encode", "parse"]

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


def parse(data: bytes, kind: Any = _Request) -> Any:
    """The protobuf request in `data`; raises InvalidRequest."""
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise InvalidRequest(f"the message is no {name}") from None


def decode(wire: Any) -> InferenceRequest:
    """The host's message for a protobuf request; raises InvalidRequest."""
    raw = wire.raw_input_contents
    checks.some(wire.inputs)
    if raw and len(raw) != len(wire.inputs):
        raise InvalidRequest(
            f"raw_input_contents: found {len(raw)}, expected {len(wire.inputs)}, "
            "one for each input"
        )
    tensors = [
        _input(tensor, f"inputs[{i}]", raw[i] if raw else None)
        for i, tensor in enumerate(wire.inputs)
    ]
    checks.unique((tensor.name for tensor in tensors), "inputs")
    wanted = [
        RequestOutput(
            name=output.name,
            parameters=_parameters(output.parameters, f"outputs[{i}]."),
        )
        for i, output in enumerate(wire.outputs)
    ]
    checks.unique((output.name for output in wanted), "outputs")
    return InferenceRequest(
        id=wire.id or None,
        parameters=_parameters(wire.parameters),
        inputs=tensors,
        outputs=wanted,
    )


def _input(tensor: Any, where: str, raw: bytes | None) -> RequestInput:
    shape = checks.dimensions(tensor.shape, where)
    datatype = checks.datatype(tensor.datatype, where)
    parameters = _parameters(tensor.parameters, f"{where}.")
    try:
        data = TensorData(_elements(tensor, raw))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"input '{tensor.name}': {error}") from None
    return RequestInput(
        name=tensor.name,
        shape=shape,
        datatype=datatype,
        parameters=parameters,
        data=data,
    )


def _elements(tensor: Any, raw: bytes | None) -> Any:
    given = [field.name for field, _ in tensor.contents.ListFields()]
    if raw is not None:
        if given:
            raise ValueError(f"has both {given[0]} and raw_input_contents")
        return from_raw(raw, tensor.datatype)
    expected = CONTENTS.get(tensor.datatype)
    if expected is None:
        raise ValueError(f"{tensor.datatype} travels in raw_input_contents only")
    if given not in ([], [expected]):
        raise ValueError(f"has {given[0]}, expected {expected} for {tensor.datatype}")
    return from_list(list(getattr(tensor.contents, expected)), tensor.datatype)


def _parameters(parameters: Mapping[str, Any], where: str = "") -> Parameters | None:
    plain = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        plain[name] = getattr(value, choice) if choice else None
    return checks.parameters(plain, where)


def encode(request: Any, response: InferenceResponse) -> bytes:
    """The protobuf answer: raw contents to a raw request, typed ones to a typed one.

    An FP16 or BF16 output makes the whole answer raw. Raises HandlerFault for a
    parameter that the protocol cannot carry.
    """
    wire = _Response(
        model_name=response.model_name,
        model_version=response.model_version or "",
        id=response.id or "",
    )
    _set_parameters(wire.parameters, as_dict(response.parameters))
    raw = bool(request.raw_input_contents) or any(
        tensor.datatype.value not in CONTENTS for tensor in response.outputs
    )
    for tensor in response.outputs:
        output = wire.outputs.add(
            name=tensor.name, datatype=tensor.datatype.value, shape=tensor.shape
        )
        _set_parameters(output.parameters, as_dict(tensor.parameters))
        if raw:
            wire.raw_output_contents.append(bytes(to_raw(tensor.as_numpy())))
        else:
            _set_contents(output.contents, tensor)
    return wire.SerializeToString()  # type: ignore[no-any-return]


def _set_contents(contents: Any, tensor: ResponseOutput) -> None:
    field = getattr(contents, CONTENTS[tensor.datatype.value])
    field.extend(tensor.as_numpy().ravel().tolist())


def _set_parameters(target: Any, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
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
                f"parameter '{name}' is a {type(value).__name__}, which gRPC has not"
            )
