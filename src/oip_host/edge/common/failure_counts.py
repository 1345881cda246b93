"""Where a failure by HTTP is counted that no model has counted itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oip_handler.errors import Forbidden, ModelNotReady, OIPError, Unauthenticated
from oip_host.models.registry import Registry
from oip_host.telemetry import refusals
from oip_host.telemetry.context import RequestContext

__all__ = ["count"]

_V1 = re.compile(r"/v1/models/([^/]+):(?:predict|explain)")


def count(
    registry: Registry,
    scope: Mapping[str, Any],
    context: RequestContext,
    error: OIPError,
) -> None:
    """Count a failure with the model that V1 asks, or as a refusal.

    KServe reads and checks a request for V1 before the model has it. Who may not ask is
    counted alike, whether there is such a model or not.
    """
    if context.statistics is not None or _answers(scope, context, error):
        return
    asked = _V1.fullmatch(scope["path"]) if scope["method"] == "POST" else None
    denied = isinstance(error, (Unauthenticated, Forbidden))
    if asked and not denied and asked[1] in registry.names():
        registry.find(asked[1]).count_failure(context, error)
    else:
        refusals.count(context.protocol, error.kind)


def _answers(
    scope: Mapping[str, Any], context: RequestContext, error: OIPError
) -> bool:
    """Whether it tells one who asks by V1 whether a model is ready that it is not."""
    asks = context.protocol == "v1" and scope["method"] == "GET"
    return asks and isinstance(error, ModelNotReady)
