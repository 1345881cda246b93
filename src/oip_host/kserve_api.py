"""KServe, imported in this one place, with this program's arguments out of its sight.

`kserve.model_server` parses `sys.argv` when it is imported, and accepts abbreviations:
`--model x` of any program would set its `model_name`. Here it sees no arguments, and
those meant for it are given to its own parser later, by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import cast

from oip_host.errors import ConfigurationError, nearest

_argv, sys.argv = sys.argv, sys.argv[:1]
try:
    import kserve
    import kserve.errors
    from kserve import model_server
    from kserve.protocol.infer_type import (
        InferInput,
        InferOutput,
        InferRequest,
        InferResponse,
    )
finally:
    sys.argv = _argv
    del _argv

__all__ = [
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "kserve",
    "model_server",
    "server_arguments",
]


def server_arguments(arguments: Sequence[str], strict: bool) -> argparse.Namespace:
    """KServe's own arguments, and their effect on servers made from now on.

    With `strict`, an argument that KServe does not know either is a fault; without, it
    is the calling program's own. Raises ConfigurationError.
    """
    parser = model_server.parser
    parser.allow_abbrev = False

    def refuse(message: str) -> None:
        raise ConfigurationError([message])

    parser.error = refuse
    namespace, unknown = parser.parse_known_args(list(arguments))
    if strict and unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        raise ConfigurationError(
            [
                f"unknown argument {name!r}{nearest(name.partition('=')[0], known)}"
                for name in unknown
            ]
        )
    model_server.args = namespace
    return cast("argparse.Namespace", namespace)
