"""The contract between a model handler and oip-host.

Everything that a plugin needs: the handler's methods, the messages of the Open
Inference Protocol, its datatypes, and the errors that a handler may raise. It knows no
server. The names below load when they are first used, so that importing
`oip_handler.errors` does not import numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oip_handler.dataplane import DataplaneHandler
    from oip_handler.datatypes import Datatype
    from oip_handler.errors import (
        DeadlineExceeded,
        HandlerFault,
        InvalidRequest,
        ModelNotFound,
        ModelNotReady,
        NotSupported,
        OIPError,
        Overloaded,
    )
    from oip_handler.handler import ModelHandler
    from oip_handler.messages import (
        InferenceRequest,
        InferenceResponse,
        MetadataTensor,
        ModelMetadataResponse,
        ModelReadyResponse,
        Parameters,
        RequestInput,
        RequestOutput,
        ResponseOutput,
    )
    from oip_handler.model_paths import ModelPath, model_file
    from oip_handler.request import request_id
    from oip_handler.tensors import TensorData

_HOMES = {
    "dataplane": ("DataplaneHandler",),
    "datatypes": ("Datatype",),
    "errors": (
        "DeadlineExceeded",
        "HandlerFault",
        "InvalidRequest",
        "ModelNotFound",
        "ModelNotReady",
        "NotSupported",
        "OIPError",
        "Overloaded",
    ),
    "handler": ("ModelHandler",),
    "messages": (
        "InferenceRequest",
        "InferenceResponse",
        "MetadataTensor",
        "ModelMetadataResponse",
        "ModelReadyResponse",
        "Parameters",
        "RequestInput",
        "RequestOutput",
        "ResponseOutput",
    ),
    "model_paths": (
        "ModelPath",
        "model_file",
    ),
    "request": ("request_id",),
    "tensors": ("TensorData",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "DataplaneHandler",
    "Datatype",
    "DeadlineExceeded",
    "HandlerFault",
    "InferenceRequest",
    "InferenceResponse",
    "InvalidRequest",
    "MetadataTensor",
    "ModelHandler",
    "ModelMetadataResponse",
    "ModelNotFound",
    "ModelNotReady",
    "ModelPath",
    "ModelReadyResponse",
    "NotSupported",
    "OIPError",
    "Overloaded",
    "Parameters",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "TensorData",
    "model_file",
    "request_id",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'oip_handler' has no attribute {name!r}")
    value = getattr(import_module(f"oip_handler.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
