"""The log line of each inference: who asked what, how it ended, and its times."""

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
from oip_host.telemetry.logs import JSON, TEXT_TIME, timestamp

__all__ = ["LatencyLog"]

latency_log = logging.getLogger("oip_host.latency")

WRITE_EVERY_S = 0.1
"""Seconds for which the lines of the latency log are collected."""

Finished: TypeAlias = "tuple[float, Inference]"
"""An inference, and when it ended."""


class LatencyLog:
    """The log line of each request that `kserve_enable_latency_logging` asks for.

    Lines are made and written together, some times a second: a line by itself costs
    more than the rest of a small request. With a `handler` they go to its stream, in
    KServe's form of a trace line or as JSON; without one each is a record of the
    program's own logging, under the name `oip_host.latency`.
    """

    def __init__(
        self, handler: logging.StreamHandler[Any] | None = None, form: str = "text"
    ) -> None:
        self._handler = handler
        self._lines = _json_lines if form == JSON else _text_lines
        self._waiting: list[Finished] = []

    @hookimpl
    def oip_inference(self, inference: Inference) -> None:
        """Keep the inference for the next writing."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(WRITE_EVERY_S, self.write)
        self._waiting.append((time.time(), inference))

    @hookimpl
    def oip_model_state(self, change: StateChange) -> None:
        """Write what came before the change, also before the host's end."""
        self.write()

    def write(self) -> None:
        """Write the lines of the inferences that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting or not latency_log.isEnabledFor(logging.INFO):
            return
        if self._handler is None:
            for _, inference in waiting:
                latency_log.info("%s", _text(inference), extra=_fields(inference))
            return
        self._handler.acquire()
        try:
            for piece in _pieces(self._lines(waiting)):
                self._handler.stream.write(piece)
                self._handler.flush()
        finally:
            self._handler.release()


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    """The lines in pieces that a pipe takes as one, which other processes share."""
    piece = ""
    for line in lines:
        if len(piece) + len(line) > PIPE_BUF:
            yield piece
            piece = ""
        piece += line
    yield piece


def _text_lines(finished: list[Finished]) -> Iterator[str]:
    second, stamp, process = 0, "", os.getpid()
    for moment, inference in finished:
        if int(moment) != second:
            second = int(moment)
            stamp = time.strftime(TEXT_TIME, time.localtime(second))
        yield (
            f"{stamp}.{int(moment * 1000) % 1000:03d} {process} "
            f"{latency_log.name} {_text(inference)}\n"
        )


def _json_lines(finished: list[Finished]) -> Iterator[str]:
    second, stamp, process = 0, "", os.getpid()
    for moment, inference in finished:
        if int(moment) != second:
            second = int(moment)
            stamp = timestamp(second)
        document = {
            "timestamp": f"{stamp}.{int(moment * 1000) % 1000:03d}Z",
            "level": "INFO",
            "logger": latency_log.name,
            "pid": process,
            "message": "inference",
            **_fields(inference),
        }
        yield orjson.dumps(document).decode() + "\n"


def _fields(inference: Inference) -> dict[str, Any]:
    """What there is to tell, by the names of the fields."""
    fields = {
        "model": _printable(inference.model),
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


def _printable(name: str) -> str:
    """A name on one line: a program may give any."""
    return name if name.isprintable() else ascii(name)


def _text(inference: Inference) -> str:
    return (
        f"model={_printable(inference.model)} version={inference.version} "
        f"protocol={inference.protocol} outcome={inference.outcome} "
        f"queue_ms={inference.queue_s * 1000:.3f} "
        f"predict_ms={inference.handler_s * 1000:.3f} "
        f"total_ms={inference.total_s * 1000:.3f} "
        f"batch_size={inference.batch_size} request_id={inference.request_id}"
    )
