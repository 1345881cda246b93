"""The checks around a call of a handler: its request, its response, its exceptions.

Requests and responses are checked whichever package their classes come from;
exceptions are translated in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import ValidationError

from oip_handler.datatypes import Datatype, as_bytes, datatype_name
from oip_handler.errors import (
    CLIENTS_FAULT,
    HandlerFault,
    InvalidRequest,
    NotSupported,
    OIPError,
)
from oip_handler.messages import (
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestOutput,
    ResponseOutput,
    as_dict,
    construct,
)
from oip_handler.tensors import TensorData, check

__all__ = [
    "Encode",
    "EncodedResponse",
    "check_inputs",
    "check_request",
    "check_response",
    "count_elements",
    "translate",
]

T = TypeVar("T")
Encode: TypeAlias = Callable[[InferenceRequest, InferenceResponse], T]
"""A function that encodes the response to a request, for example for the wire."""


class EncodedResponse(Generic[T]):
    """An encoded response, and the outputs that it was made from."""

    __slots__ = ("content", "outputs")

    def __init__(self, outputs: Sequence[ResponseOutput], content: T) -> None:
        self.outputs, self.content = outputs, content


def check_inputs(request: InferenceRequest, metadata: Any) -> None:
    """Check a request's inputs against a model's metadata.

    The request must have each input of the metadata and no other, with the same
    datatype and shape; a dimension of -1 fits any size. Raises InvalidRequest.
    """
    known = {tensor.name: tensor for tensor in metadata.inputs}
    names = [tensor.name for tensor in request.inputs]
    if sorted(names) != sorted(known):
        raise InvalidRequest(
            f"inputs: found {', '.join(names)}, expected {', '.join(known)}"
        )
    for tensor in request.inputs:
        expected = known[tensor.name]
        if tensor.datatype != expected.datatype:
            datatype = datatype_name(expected.datatype)
            raise InvalidRequest(
                f"input '{tensor.name}': datatype {tensor.datatype.value}, "
                f"expected {datatype}"
            )
        fits = len(tensor.shape) == len(expected.shape) and all(
            want in (size, -1)
            for size, want in zip(tensor.shape, expected.shape, strict=True)
        )
        if not fits:
            raise InvalidRequest(
                f"input '{tensor.name}': shape {tensor.shape}, "
                f"expected {list(expected.shape)}"
            )


def check_response(
    request: InferenceRequest, answer: Any, model: str, version: str
) -> InferenceResponse:
    """Return a handler's answer as the host's own message, with the requested outputs.

    Its tensors fit their shapes and datatypes; name, version and id are the host's.
    Raises HandlerFault if the answer is invalid, and InvalidRequest if the request
    names an output that the answer does not have.
    """
    try:
        outputs = [_check_output(tensor) for tensor in answer.outputs]
        parameters = _check_parameters(answer.parameters)
        identity = answer.id if request.id is None else request.id
        if not isinstance(identity, (str, NoneType)):
            raise TypeError(f"id is a {type(identity).__name__}, expected a string")
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        raise HandlerFault(
            f"model '{model}' returned an invalid response: {location}: {first['msg']}"
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise HandlerFault(
            f"model '{model}' returned an invalid response: {error}"
        ) from error
    if request.outputs:
        outputs = _select(outputs, request.outputs, model)
    return construct(
        InferenceResponse,
        {
            "model_name": model,
            "model_version": version,
            "id": identity,
            "parameters": parameters,
            "outputs": outputs,
        },
    )


def translate(error: Exception, model: str) -> OIPError:
    """Return the error that a client gets for a handler's exception.

    ValueError and TypeError count as the client's fault, as they do upstream. The text
    of anything else stays in the server's log.
    """
    if isinstance(error, OIPError):
        return error
    if isinstance(error, CLIENTS_FAULT):
        return InvalidRequest(str(error))
    if isinstance(error, NotImplementedError):
        return NotSupported(str(error) or f"model '{model}' does not implement this")
    return HandlerFault(f"model '{model}' failed; the server's log has the reason")


def check_request(request: InferenceRequest) -> None:
    """Check a request's tensors against their shapes and datatypes.

    Raises InvalidRequest.
    """
    try:
        request.validate_oip()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(str(error)) from error


def _check_output(tensor: Any) -> ResponseOutput:
    """Return an output of any package's class as the host's message, checked."""
    output = tensor if _is_ours(tensor) else _convert_output(tensor)
    try:
        check(output.data, output.shape, output.datatype)
        if output.datatype is Datatype.BYTES:
            output.data.array = as_bytes(output.data.elements(Datatype.BYTES))
    except (TypeError, ValueError) as error:
        raise ValueError(f"output '{output.name}': {error}") from error
    return output


def _is_ours(tensor: Any) -> bool:
    """Return whether an output is the host's own message, with fields still valid."""
    return (
        type(tensor) is ResponseOutput
        and tensor.parameters is None
        and type(tensor.data) is TensorData
        and type(tensor.datatype) is Datatype
        and type(tensor.name) is str
        and type(tensor.shape) is list
        and _INTEGERS.issuperset(map(type, tensor.shape))
    )


_INTEGERS = frozenset({int})


def _convert_output(tensor: Any) -> ResponseOutput:
    """Return another package's output as the host's own message."""
    data = getattr(tensor.data, "array", None)
    if data is None:
        data = getattr(tensor.data, "root", tensor.data)
    return ResponseOutput(
        name=tensor.name,
        shape=tensor.shape,
        datatype=datatype_name(tensor.datatype),
        parameters=_check_parameters(tensor.parameters),
        data=TensorData(data),
    )


def _check_parameters(parameters: Any) -> Parameters | None:
    """Return a response's parameters; ValueError if the protocol cannot carry one."""
    plain = as_dict(parameters)
    for name, value in plain.items():
        if not isinstance(value, (str, bool, int, float)):
            raise ValueError(
                f"parameter '{name}' is a {type(value).__name__}, "
                "expected a string, a number or a boolean"
            )
    return Parameters.model_validate(plain) if plain else None


def _select(
    outputs: list[ResponseOutput], wanted: list[RequestOutput], model: str
) -> list[ResponseOutput]:
    """Return the wanted outputs; InvalidRequest for one that does not exist."""
    by_name = {output.name: output for output in outputs}
    for want in wanted:
        if want.name not in by_name:
            raise InvalidRequest(
                f"model '{model}' has no output '{want.name}', expected one of "
                f"{', '.join(by_name) or 'none'}"
            )
    return [by_name[want.name] for want in wanted]


def count_elements(tensors: Iterable[Any]) -> int:
    """Return the number of elements of the tensors that are arrays already."""
    total = 0
    for tensor in tensors:
        array = tensor.data.array
        if array is not None:
            total += array.size
    return total
