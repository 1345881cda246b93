"""The count of failures by HTTP that no model has counted itself."""

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
    """Count a failure with the model of a V1 request, or as a refusal.

    KServe reads and checks a V1 request before the model has it. A client without the
    right to a model is counted as a refusal, whether the model exists or not.
    """
    if context.statistics is not None or _is_readiness(scope, context, error):
        return
    asked = _V1.fullmatch(scope["path"]) if scope["method"] == "POST" else None
    denied = isinstance(error, (Unauthenticated, Forbidden))
    if asked and not denied and asked[1] in registry.names():
        registry.find(asked[1]).count_failure(context, error)
    else:
        refusals.count(context.protocol, error.kind)


def _is_readiness(
    scope: Mapping[str, Any], context: RequestContext, error: OIPError
) -> bool:
    """Return True for the answer "not ready" to a readiness check by V1."""
    asks = context.protocol == "v1" and scope["method"] == "GET"
    return asks and isinstance(error, ModelNotReady)
