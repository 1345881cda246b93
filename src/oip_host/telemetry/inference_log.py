"""The log line of each inference: the model, the outcome, and the times."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Iterator
from select import PIPE_BUF
from typing import Any, TypeAlias

import orjson

from oip_host.hookspecs import Inference, StateChange, hookimpl
from oip_host.telemetry.logs import JSON, TEXT_TIME, format_time

__all__ = ["LatencyLog"]

latency_log = logging.getLogger("oip_host.latency")

WRITE_EVERY_S = 0.1
"""Seconds for which lines are collected before they are written."""

FinishedInference: TypeAlias = "tuple[float, Inference]"
"""An inference, and when it ended."""


class LatencyLog:
    """The lines of `kserve_enable_latency_logging`, one for each inference.

    Lines are formatted and written together, ten times a second: a line by itself costs
    more than the rest of a small request. With a `handler` they go to its stream, in
    KServe's form of a trace line or as JSON; without one each is a record of the
    program's own logging, under the name `oip_host.latency`.
    """

    def __init__(
        self, handler: logging.StreamHandler[Any] | None = None, form: str = "text"
    ) -> None:
        self._handler = handler
        self._format = _format_json if form == JSON else _format_text
        self._waiting: list[FinishedInference] = []

    @hookimpl
    def oip_inference(self, inference: Inference) -> None:
        """Keep the inference until lines are written."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(WRITE_EVERY_S, self.write)
        self._waiting.append((time.time(), inference))

    @hookimpl
    def oip_model_state(self, change: StateChange) -> None:
        """Write the lines from before the change, so also before the host ends."""
        self.write()

    def write(self) -> None:
        """Write a line for each inference since the last call."""
        waiting, self._waiting = self._waiting, []
        if not waiting or not latency_log.isEnabledFor(logging.INFO):
            return
        if self._handler is None:
            for _, inference in waiting:
                latency_log.info(
                    "%s", _describe(inference), extra=_list_fields(inference)
                )
            return
        self._handler.acquire()
        try:
            for piece in _split(self._format(waiting)):
                self._handler.stream.write(piece)
                self._handler.flush()
        finally:
            self._handler.release()


def _split(lines: Iterable[str]) -> Iterator[str]:
    """Join lines into pieces that a pipe shared with other processes writes at once."""
    piece = ""
    for line in lines:
        if len(piece) + len(line) > PIPE_BUF:
            yield piece
            piece = ""
        piece += line
    yield piece


def _format_text(finished: list[FinishedInference]) -> Iterator[str]:
    second, stamp, process = 0, "", os.getpid()
    for moment, inference in finished:
        if int(moment) != second:
            second = int(moment)
            stamp = time.strftime(TEXT_TIME, time.localtime(second))
        yield (
            f"{stamp}.{int(moment * 1000) % 1000:03d} {process} "
            f"{latency_log.name} {_describe(inference)}\n"
        )


def _format_json(finished: list[FinishedInference]) -> Iterator[str]:
    second, stamp, process = 0, "", os.getpid()
    for moment, inference in finished:
        if int(moment) != second:
            second = int(moment)
            stamp = format_time(second)
        document = {
            "timestamp": f"{stamp}.{int(moment * 1000) % 1000:03d}Z",
            "level": "INFO",
            "logger": latency_log.name,
            "pid": process,
            "message": "inference",
            **_list_fields(inference),
        }
        yield orjson.dumps(document).decode() + "\n"


def _list_fields(inference: Inference) -> dict[str, Any]:
    """Return the fields of a line by name."""
    fields = {
        "model": _escape(inference.model),
        "version": inference.version,
        "protocol": inference.protocol,
        "outcome": inference.outcome,
        "queue_ms": round(inference.queue_s * 1000, 3),
        "predict_ms": round(inference.handler_s * 1000, 3),
        "total_ms": round(inference.total_s * 1000, 3),
        "batch_size": inference.batch_size,
        "request_id": inference.request_id,
    }
    if inference.trace_id:
        fields["trace_id"] = inference.trace_id
    return fields


def _escape(name: str) -> str:
    """Return a name that fits on one line: a program may use any."""
    return name if name.isprintable() else ascii(name)


def _describe(inference: Inference) -> str:
    return (
        f"model={_escape(inference.model)} version={inference.version} "
        f"protocol={inference.protocol} outcome={inference.outcome} "
        f"queue_ms={inference.queue_s * 1000:.3f} "
        f"predict_ms={inference.handler_s * 1000:.3f} "
        f"total_ms={inference.total_s * 1000:.3f} "
        f"batch_size={inference.batch_size} request_id={inference.request_id}"
    )
