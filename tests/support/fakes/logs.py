"""Handlers that log, served as `fakes.logs:Name`."""

from __future__ import annotations

import logging
import warnings

from oip_host import InferenceRequest, InferenceResponse, request_id

from .echo import Echo

log = logging.getLogger("their.module")


class Logs(Echo):
    """Logs when it loads, answers and unloads; a first element of -1 makes it fail."""

    def model_load(self, model_name: str) -> bool:
        log.info("reads a file")
        warnings.warn("an old file", stacklevel=1)
        return True

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        log.info("asked as [%s]", request_id())
        log.debug("in detail")
        if payload.inputs[0].as_numpy().flat[0] == -1:
            raise RuntimeError("does not like it")
        return super().infer(payload, model_name, model_version)

    def model_unload(self, model_name: str) -> None:
        log.info("unloads as [%s]", request_id())


class LogsAsync(Logs):
    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        return super().infer(payload, model_name, model_version)


class Wrong(Echo):
    """Has a bug that looks like a client's fault."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        weights = None
        return weights[0]  # type: ignore[index, no-any-return]


class WrongAsync(Wrong):
    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        return super().infer(payload, model_name, model_version)
