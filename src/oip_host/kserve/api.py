"""KServe, imported in this one place, with this program's arguments out of its sight.

`kserve.model_server` parses `sys.argv` when it is imported, and accepts abbreviations:
`--model x` of any program would set its `model_name`. Here it sees no arguments, and
those meant for it are given to its own parser later, by name. Every other module takes
what it needs of KServe from here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from oip_host.config.settings import Settings
from oip_host.config.sources import flag
from oip_host.errors import ConfigurationError, nearest
from oip_host.kserve.deferred_import import defer_imports

_argv, sys.argv = sys.argv, sys.argv[:1]
try:
    with defer_imports():
        import kserve
    import kserve.errors
    from kserve import model_server
    from kserve.logging import KSERVE_LOG_CONFIG
    from kserve.metrics import PREDICT_HIST_TIME
    from kserve.protocol.infer_type import (
        InferInput,
        InferOutput,
        InferRequest,
        InferResponse,
        RequestedOutput,
    )
    from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
    from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
finally:
    sys.argv = _argv

__all__ = [
    "KSERVE_LOG_CONFIG",
    "PREDICT_HIST_TIME",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "RequestedOutput",
    "kserve",
    "model_server",
    "register_v1_endpoints",
    "register_v2_endpoints",
    "server_arguments",
]


_NONE_UNLESS_GIVEN = ("grpc_max_send_message_length", "grpc_max_receive_message_length")
"""Arguments whose default is the host's own, by its limits of REST."""


class _Parser(argparse.ArgumentParser):
    """KServe's arguments, without abbreviations, and with faults raised."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError([message])


def server_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """KServe's own arguments, in effect from now on, and the faults of the others.

    An argument that KServe does not know either is a fault to the host's own command,
    and to nobody in a program with arguments of its own.
    """
    parser = _Parser(parents=[model_server.parser], add_help=False, allow_abbrev=False)
    not_given = dict.fromkeys(_NONE_UNLESS_GIVEN)
    try:
        namespace, unknown = parser.parse_known_args(
            list(arguments), argparse.Namespace(**not_given)
        )
    except ConfigurationError as error:
        return parser.parse_args([], argparse.Namespace(**not_given)), list(
            error.faults
        )
    model_server.args = namespace
    known = [name for action in parser._actions for name in action.option_strings]
    known += [flag(name) for name in Settings.model_fields]
    return namespace, [
        f"unknown argument {name!r}{nearest(name.partition('=')[0], known)}"
        for name in unknown
    ]
