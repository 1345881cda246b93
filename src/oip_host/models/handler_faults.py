"""The log line of an exception that a handler raised, and the error it becomes."""

from __future__ import annotations

import logging

from oip_handler.boundary import translate
from oip_handler.errors import OIPError
from oip_host.kserve.errors import from_kserve
from oip_host.lanes.lane import contain

__all__ = ["log_fault", "translate_fault"]

log = logging.getLogger("oip_host")

_CONSEQUENCES = {
    "constructor": "the model is unavailable",
    "model_load": "the model is unavailable",
    "model_ready": "the model is not ready",
    "model_unload": "unloading the model all the same",
}
"""The host's reaction where no client waits for the answer of a method."""


def translate_fault(error: BaseException, model: str) -> OIPError:
    """Return the error that a client gets for what a handler raised."""
    return translate(from_kserve(contain(error)), model)


def log_fault(error: BaseException, method: str, model: str, version: str) -> None:
    """Log what a method of a handler raised, with its traceback.

    Where a client gets the blame, by a status below 500, the line is a warning. Called
    where the handler was called, so the line has the request's id.
    """
    failure = translate_fault(error, model)
    answer = f"answering {failure.kind} ({failure.http_status})"
    is_servers = method in _CONSEQUENCES or failure.http_status >= 500
    log.log(
        logging.ERROR if is_servers else logging.WARNING,
        "%s of model '%s' version '%s' raised %s, %s",
        method, model, version, type(error).__name__,
        _CONSEQUENCES.get(method, answer),
        exc_info=error,
        extra={"model": model, "version": version},
    )  # fmt: skip
