"""Who is told of a model's events: the extensions, and the host's latency log."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from select import PIPE_BUF
from typing import Any

import pluggy

from oip_host.hookspecs import Inference, StateChange, hookimpl
from oip_host.kserve_api import KSERVE_LOG_CONFIG, kserve, model_server
from oip_host.model import Observer
from oip_host.plugins import call_each

__all__ = ["Hooks", "LatencyLog", "configure_logging"]

log = logging.getLogger("oip_host")
latency_log = logging.getLogger("oip_host.latency")

WRITE_EVERY_S = 0.1
"""Seconds for which the lines of the latency log are collected."""


class LatencyLog:
    """The log line of each request that `kserve_enable_latency_logging` asks for.

    Lines are made and written together, some times a second: a line by itself costs
    more than the rest of a small request. With a `handler` they go to its stream, in
    KServe's form of a trace line; without one each is a record of the program's own
    logging, under the name `oip_host.latency`.
    """

    def __init__(self, handler: logging.StreamHandler[Any] | None = None) -> None:
        self._handler = handler
        self._waiting: list[tuple[float, Inference]] = []

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
                latency_log.info("%s", _line(inference))
            return
        lines = []
        second, stamp, process = 0, "", os.getpid()
        for moment, inference in waiting:
            if int(moment) != second:
                second = int(moment)
                stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            lines.append(
                f"{stamp}.{int(moment * 1000) % 1000:03d} {process} "
                f"{latency_log.name} {_line(inference)}\n"
            )
        self._handler.acquire()
        try:
            for piece in _pieces(lines):
                self._handler.stream.write(piece)
                self._handler.flush()
        finally:
            self._handler.release()


def _pieces(lines: list[str]) -> Iterator[str]:
    """The lines in pieces that a pipe takes as one, which other processes share."""
    piece = ""
    for line in lines:
        if len(piece) + len(line) > PIPE_BUF:
            yield piece
            piece = ""
        piece += line
    yield piece


def _line(inference: Inference) -> str:
    name = inference.model
    if not name.isprintable():  # a program may give any, and a line is a line
        name = ascii(name)
    return (
        f"model={name} version={inference.version} "
        f"protocol={inference.protocol} outcome={inference.outcome} "
        f"queue_ms={inference.queue_s * 1000:.3f} "
        f"predict_ms={inference.handler_s * 1000:.3f}"
    )


class Hooks(Observer):
    """Passes a model's events to the extensions; nothing where nobody listens."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._hook = manager.hook
        self._listeners = [
            (listener.plugin_name, _told(listener))
            for listener in manager.hook.oip_inference.get_hookimpls()
        ]
        if self._listeners:
            self.inference = self._inference

    def state(self, change: StateChange) -> None:
        call_each(self._hook.oip_model_state, change=change)

    def _inference(self, inference: Inference) -> None:
        """As `call_each`, for the one hook that is called for each request."""
        for name, listener in self._listeners:
            try:
                listener(inference)
            except Exception:
                log.exception("host extension '%s' failed in oip_inference", name)


def _told(listener: pluggy.HookImpl) -> Callable[[Inference], None]:
    """A listener as a function of the inference, which a hook may leave out."""
    function: Callable[..., Any] = listener.function
    return function if listener.argnames else lambda _: function()


def configure_logging() -> logging.StreamHandler[Any] | None:
    """Log as KServe does, unless the program has set up its own logging.

    KServe's own `configure_logging=false` and `log_config_file` hold for both. Returns
    the host's handler, where it has one of its own.
    """
    if not model_server.args.configure_logging:
        return None
    kserve.logging.configure_logging(model_server.args.log_config_file)
    if not log.hasHandlers():
        form = KSERVE_LOG_CONFIG["formatters"]["kserve"]
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(form["fmt"], form["datefmt"]))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        return handler
    return None
