"""The protocol's messages under their upstream import path."""

from oip_handler.datatypes import Datatype
from oip_handler.list_checks import (
    DYNAMIC_SHAPE_SPECIFIER,
    flatten,
    get_actual_shape,
    shape_is_valid,
    validate_datatype,
    validate_shape,
)
from oip_handler.messages import (
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
from oip_handler.tensors import TensorData

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
