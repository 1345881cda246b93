"""The protocol's messages under their upstream import path."""

from oip_host.datatypes import Datatype
from oip_host.tensors import (
    DYNAMIC_SHAPE_SPECIFIER,
    TensorData,
    flatten,
    get_actual_shape,
    shape_is_valid,
    validate_datatype,
    validate_shape,
)
from oip_host.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelMetadataErrorResponse,
    ModelMetadataResponse,
    ModelReadyResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    ServerLiveResponse,
    ServerMetadataErrorResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)

__all__ = [
    "DYNAMIC_SHAPE_SPECIFIER",
    "Datatype",
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
    "TensorData",
    "flatten",
    "get_actual_shape",
    "shape_is_valid",
    "validate_datatype",
    "validate_shape",
]
