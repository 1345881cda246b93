"""The messages of the Open Inference Protocol, as a handler sees them.

Names and fields are those of aiSSEMBLE's `types.dataplane`, so that its handlers run
unchanged; `RequestInput.as_numpy` and `ResponseOutput.from_numpy` are additions. The
protocol describes each field in `inference_rest.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from oip_handler.datatypes import Datatype, as_bytes, datatype_of
from oip_handler.tensors import TensorData, check

__all__ = [
    "InferenceRequest",
    "InferenceResponse",
    "MetadataTensor",
    "ModelMetadataErrorResponse",
    "ModelMetadataResponse",
    "ModelReadyResponse",
    "Parameters",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "ServerLiveResponse",
    "ServerMetadataErrorResponse",
    "ServerMetadataResponse",
    "ServerReadyResponse",
    "as_dict",
    "construct",
]

M = TypeVar("M", bound=BaseModel)

# the field names model_name and model_version are the protocol's
_MESSAGE = ConfigDict(protected_namespaces=())


class Parameters(BaseModel):
    """Free parameters of a request, an input or an output: any names, plain values."""

    content_type: str | None = None
    model_config = ConfigDict(extra="allow", protected_namespaces=())


def as_dict(parameters: Any) -> dict[str, Any]:
    """Return parameters as a plain dictionary without nulls.

    Accepts None, a mapping, or any object with pydantic's `model_dump`, such as the
    upstream wheel's `Parameters`.
    """
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        parameters = parameters.model_dump()
    return {name: value for name, value in parameters.items() if value is not None}


def construct(message: type[M], fields: dict[str, Any]) -> M:
    """Make a message from all of its fields, without validating them.

    The result is that of pydantic's `model_construct` for a message without extra
    fields, in a quarter of the time; pydantic documents the four attributes.
    """
    instance = message.__new__(message)
    _set(instance, "__dict__", fields)
    _set(instance, "__pydantic_fields_set__", _field_names(message))
    _set(instance, "__pydantic_extra__", None)
    _set(instance, "__pydantic_private__", None)
    return instance


@cache
def _field_names(message: type[BaseModel]) -> set[str]:
    return set(message.model_fields)


_set = object.__setattr__


class RequestOutput(BaseModel):
    """An output that the client requests."""

    name: str
    parameters: Parameters | None = None


class RequestInput(BaseModel):
    """An input tensor: `shape` in elements, `data` in row-major order."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: Parameters | None = None
    data: TensorData

    def as_numpy(self) -> NDArray[Any]:
        """Return the tensor as an array of `shape`, not copied; BYTES as `bytes`.

        The array is read-only if its memory is the network's buffer: copy it to write
        to it. Raises ValueError or TypeError if the elements do not fit the shape or
        datatype.
        """
        return self.data.as_numpy(self.shape, self.datatype)

    def validate_oip(self) -> None:
        """Raise ValueError or TypeError if the data do not fit shape or datatype."""
        self.data.validate_oip(self.shape, self.datatype)


class ResponseOutput(BaseModel):
    """An output tensor: `shape` in elements, `data` flat or nested, row-major."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: Parameters | None = None
    data: TensorData

    @classmethod
    def from_numpy(
        cls, name: str, array: NDArray[Any], parameters: Parameters | None = None
    ) -> ResponseOutput:
        """Make an output from an array of any shape, without a list in between.

        Text, bytes and objects become BYTES. Raises TypeError for a dtype that the
        protocol cannot carry, and for an object that is neither text nor bytes.
        """
        array = np.asarray(array)
        datatype = datatype_of(array.dtype)
        if datatype is Datatype.BYTES:
            array = as_bytes(array.astype(object))
        return cls(
            name=name,
            shape=list(array.shape),
            datatype=datatype,
            parameters=parameters,
            data=TensorData(array),
        )

    def as_numpy(self) -> NDArray[Any]:
        """Return the tensor as an array of `shape`; see `RequestInput.as_numpy`."""
        return self.data.as_numpy(self.shape, self.datatype)

    def validate_oip(self) -> None:
        """Raise ValueError or TypeError if the data do not fit shape or datatype."""
        self.data.validate_oip(self.shape, self.datatype)


class InferenceRequest(BaseModel):
    """A request to a handler: one or more inputs, and the outputs that are wanted."""

    id: str | None = None
    parameters: Parameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None

    def validate_oip(self) -> None:
        """Raise ValueError or TypeError, naming the input, if one does not fit."""
        if not self.inputs:
            raise ValueError("the request has no inputs, expected at least one")
        for tensor in self.inputs:
            try:
                check(tensor.data, tensor.shape, tensor.datatype)
            except (TypeError, ValueError) as error:
                raise type(error)(f"input '{tensor.name}': {error}") from error


class InferenceResponse(BaseModel):
    """A handler's response. The host sets `id`, `model_name` and `model_version`."""

    model_config = _MESSAGE

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[ResponseOutput]

    def validate_oip(self) -> None:
        """Raise ValueError or TypeError, naming the output, if one does not fit."""
        for tensor in self.outputs:
            try:
                check(tensor.data, tensor.shape, tensor.datatype)
            except (TypeError, ValueError) as error:
                raise type(error)(f"output '{tensor.name}': {error}") from error


class MetadataTensor(BaseModel):
    """An input or output as the model describes it; -1 is a dimension of any size."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadataResponse(BaseModel):
    """A model's description of itself."""

    name: str
    versions: list[str] | None = None
    platform: str
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]


class ModelMetadataErrorResponse(BaseModel):
    """The reason why there is no metadata of a model."""

    error: str


class ModelReadyResponse(BaseModel):
    """The readiness of a model."""

    name: str
    ready: bool


class ServerReadyResponse(BaseModel):
    """The readiness of the server: whether its models can answer."""

    live: bool


class ServerLiveResponse(BaseModel):
    """The liveness of the server: whether it runs."""

    live: bool


class ServerMetadataResponse(BaseModel):
    """The server's description of itself."""

    name: str
    version: str
    extensions: list[str]


class ServerMetadataErrorResponse(BaseModel):
    """The reason why there is no metadata of the server."""

    error: str
