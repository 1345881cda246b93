"""Passing a model's events on to the extensions that listen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pluggy

from oip_host.hookspecs import Inference, StateChange
from oip_host.plugins.discovery import call_each
from oip_host.telemetry.observer import Observer

__all__ = ["observe_with_hooks"]

log = logging.getLogger("oip_host")

Listener = tuple[str, Callable[[Inference], None]]
"""An extension's name and its implementation of `oip_inference`."""


def observe_with_hooks(manager: pluggy.PluginManager) -> Observer:
    """Return an observer that passes a model's events on to the extensions."""

    def report_state(change: StateChange) -> None:
        call_each(manager.hook.oip_model_state, change=change)

    listeners = [
        (implementation.plugin_name, _take_inference(implementation))
        for implementation in manager.hook.oip_inference.get_hookimpls()
    ]
    return Observer(
        state=report_state,
        inference=partial(_pass_on, listeners) if listeners else None,
    )


def _pass_on(listeners: list[Listener], inference: Inference) -> None:
    """Do as `call_each`, for the one hook that is called for each request."""
    for name, listener in listeners:
        try:
            listener(inference)
        except Exception:
            log.exception("host extension '%s' failed in oip_inference", name)


def _take_inference(
    implementation: pluggy.HookImpl,
) -> Callable[[Inference], None]:
    """Return a hook implementation with the argument that it may leave out."""
    function: Callable[..., Any] = implementation.function
    return function if implementation.argnames else lambda _: function()
