"""The options of one model and the settings of its handler, at a start and a reload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from oip_host.config.handler_settings import (
    build_settings,
    mask_secrets,
    resolve_paths,
)
from oip_host.config.model_options import Key, ModelOptions, parse_model_options
from oip_host.config.sources import Values
from oip_host.plugins.choice import Choice
from oip_host.plugins.discovery import import_handler

__all__ = ["ImportedHandler", "ModelConfiguration", "configure_model", "import_for"]


@dataclass(frozen=True)
class ImportedHandler:
    """A handler that the host has imported, or the reason why it has not."""

    handler: Any = None
    """Its class or factory; None if the host does not know it."""
    reason: str | None = None
    """Why it fails to import."""
    is_remote: bool = False
    """Whether only the replicas, in an environment of their own, import it."""


@dataclass(frozen=True)
class ModelConfiguration:
    """The options of a model and the settings of its handler, as they are set."""

    values: Values
    """By path below the model; secrets are marked, and paths of files resolved."""
    options: ModelOptions | None
    """None if they have faults."""
    settings: BaseModel | None = None
    """None if the handler declares none, is unknown to the host, or has faults."""
    option_faults: tuple[str, ...] = ()
    setting_faults: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """The faults of the options and of the settings, a line each."""
        return self.option_faults + self.setting_faults

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments with which the handler is constructed."""
        return {} if self.settings is None else {"settings": self.settings}


def import_for(choice: Choice, values: Values) -> ImportedHandler:
    """Import a handler, unless its replicas do so in an environment of their own."""
    options, _ = parse_model_options(choice.key, values)
    if options is not None and (options.py_executable or options.runtime_env):
        return ImportedHandler(is_remote=True)
    return ImportedHandler(*import_handler(choice.entry))


def configure_model(
    key: Key, values: Values, handler: Any, model_dir: str | None
) -> ModelConfiguration:
    """Return the options of a model and the settings of its handler, with their faults.

    `handler` is None if the host does not know it: its settings are then masked and
    left as they are.
    """
    values = mask_secrets(handler, values)
    options, wrong = parse_model_options(key, values)
    if handler is None:
        return ModelConfiguration(values, options, option_faults=tuple(wrong))
    values = resolve_paths(handler, key, values, model_dir)
    settings, unfit = build_settings(handler, key, values, model_dir)
    return ModelConfiguration(values, options, settings, tuple(wrong), tuple(unfit))
