"""Handlers for tracing, served as `fakes.traces:Name`; numbers come back.

A traced handler makes a span `own` if the request's parameter `span` is set, and
answers OpenTelemetry's baggage as parameters.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import sys
import time
from typing import Any

import oip_host
from oip_host import InferenceRequest, InferenceResponse, Parameters

from .echo import Echo

log = logging.getLogger("fakes.traces")


class Modules(Echo):
    """Answers the names of OpenTelemetry's imported modules."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        answer = super().infer(payload, model_name, model_version)
        names = [name for name in sys.modules if name.startswith("opentelemetry")]
        known = "oip_host.telemetry.tracing" in sys.modules
        told = {"modules": ",".join(names), "known": known}
        answer.parameters = Parameters.model_validate(told)
        return answer


class Traced(Echo):
    """Logs in its own span, and fails if the request says so."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        answer = super().infer(payload, model_name, model_version)
        told = _asked(payload)
        time.sleep(float(told.get("sleep", 0)))
        answer.parameters = _own(told)
        return answer


class Awaited(Echo):
    """`Traced` on an event loop."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        answer = Echo.infer(self, payload, model_name, model_version)
        told = _asked(payload)
        await asyncio.sleep(float(told.get("sleep", 0)))
        answer.parameters = _own(told)
        return answer


def _asked(payload: InferenceRequest) -> dict[str, Any]:
    return payload.parameters.model_dump() if payload.parameters is not None else {}


def _own(told: dict[str, Any]) -> Parameters:
    from opentelemetry import baggage, propagate, trace

    if told.get("span"):
        with trace.get_tracer("fakes.traces").start_as_current_span("own"):
            log.info("within")
    if "raise" in told:
        name, text = str(told["raise"]), "the secret of the request"
        kind = getattr(oip_host, name, None) or getattr(builtins, name)
        raise kind(text)
    headers: dict[str, str] = {}
    propagate.inject(headers)
    seen = {f"baggage.{name}": str(value) for name, value in baggage.get_all().items()}
    return Parameters.model_validate({**headers, **seen})
