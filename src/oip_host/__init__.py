"""oip-host: every installed model handler in one Open Inference Protocol server.

The names below are the public surface: those of `oip_handler`, the same objects, and
those that need a server. They are imported at first use, so that importing `oip_host`
imports neither kserve nor a plugin.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import oip_handler

if TYPE_CHECKING:
    from oip_handler import (
        DataplaneHandler,
        Datatype,
        DeadlineExceeded,
        HandlerFault,
        InferenceRequest,
        InferenceResponse,
        InvalidRequest,
        MetadataTensor,
        ModelHandler,
        ModelMetadataResponse,
        ModelNotFound,
        ModelNotReady,
        ModelPath,
        ModelReadyResponse,
        NotSupported,
        OIPError,
        Overloaded,
        Parameters,
        RequestInput,
        RequestOutput,
        ResponseOutput,
        TensorData,
        model_file,
        request_id,
    )
    from oip_host.errors import ConfigurationError
    from oip_host.hookspecs import HandlerEntry, Inference, StateChange, hookimpl
    from oip_host.host.host import Host
    from oip_host.model_server import AissembleOIPKServe, ModelServer

_HOMES: dict[str, Sequence[str]] = {
    "oip_handler": oip_handler.__all__,
    "oip_host.errors": ("ConfigurationError",),
    "oip_host.hookspecs": (
        "HandlerEntry",
        "Inference",
        "StateChange",
        "hookimpl",
    ),
    "oip_host.host.host": ("Host",),
    "oip_host.model_server": (
        "AissembleOIPKServe",
        "ModelServer",
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
    """Import a public name from its module at its first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'oip_host' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
