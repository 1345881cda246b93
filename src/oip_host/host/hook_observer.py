"""Passing a model's events on to the extensions that listen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pluggy

from oip_host.hookspecs import Inference, StateChange
from oip_host.plugins.discovery import call_each
from oip_host.telemetry.observer import Observer

__all__ = ["Hooks"]

log = logging.getLogger("oip_host")


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
