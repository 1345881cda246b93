"""oip-host: every installed model handler in one Open Inference Protocol server.

The names below are the public surface. They load at first use: importing `oip_host`
imports neither kserve nor a plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oip_host.context import request_id
    from oip_host.dataplane import DataplaneHandler
    from oip_host.datatypes import Datatype
    from oip_host.errors import (
        ConfigurationError,
        DeadlineExceeded,
        HandlerFault,
        InvalidRequest,
        ModelNotFound,
        ModelNotReady,
        NotSupported,
        OIPError,
        Overloaded,
    )
    from oip_host.handler import ModelHandler
    from oip_host.hookspecs import HandlerEntry, Inference, StateChange, hookimpl
    from oip_host.host import Host
    from oip_host.model import AissembleOIPKServe
    from oip_host.paths import ModelPath, model_file
    from oip_host.program import ModelServer
    from oip_host.tensors import TensorData
    from oip_host.types import (
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

_HOMES = {
    "context": ("request_id",),
    "dataplane": ("DataplaneHandler",),
    "datatypes": ("Datatype",),
    "errors": (
        "ConfigurationError",
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
    "hookspecs": ("HandlerEntry", "Inference", "StateChange", "hookimpl"),
    "host": ("Host",),
    "model": ("AissembleOIPKServe",),
    "paths": ("ModelPath", "model_file"),
    "program": ("ModelServer",),
    "tensors": ("TensorData",),
    "types": (
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
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AissembleOIPKServe",
    "ConfigurationError",
    "DataplaneHandler",
    "Datatype",
    "DeadlineExceeded",
    "HandlerEntry",
    "HandlerFault",
    "Host",
    "Inference",
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
    "ModelServer",
    "NotSupported",
    "OIPError",
    "Overloaded",
    "Parameters",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "StateChange",
    "TensorData",
    "hookimpl",
    "model_file",
    "request_id",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'oip_host' has no attribute {name!r}")
    value = getattr(import_module(f"oip_host.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
