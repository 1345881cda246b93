"""The one reading of the options, for every command and for programs that serve.

`assemble` reads once and its result is handed down; only a reload reads again. Nothing
here imports a server, so that `oip-host list` and the supervisor stay small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import pluggy

from oip_host.config import selection
from oip_host.config.configuration import Configuration, read
from oip_host.hookspecs import HandlerEntry
from oip_host.plugins import wheels
from oip_host.plugins.choice import Choice, choose
from oip_host.plugins.discovery import create_manager, list_handlers
from oip_host.workers import identity
from oip_host.workers.identity import WorkerIdentity

__all__ = ["HandlerSelection", "Launch", "assemble"]


@dataclass(frozen=True)
class HandlerSelection:
    """The installed handlers, and the models that are to be served from them."""

    installed: tuple[HandlerEntry, ...]
    choices: tuple[Choice, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Launch:
    """The options as they were read, and the plugins that they make available."""

    configuration: Configuration
    faults: tuple[str, ...]
    """The faults of the options."""
    plugin_dir_faults: tuple[str, ...]
    """The faults of the plugin directory, which then offers no handler."""
    worker: WorkerIdentity | None
    """Which of several workers this process is; None if it is none."""
    plugins: Callable[[], pluggy.PluginManager]
    """Returns the manager of all extensions, imported at the first call."""

    def with_kserve_arguments(self, arguments: Sequence[str]) -> Launch:
        """Return the same launch with only these arguments left for KServe."""
        configuration = replace(self.configuration, kserve_arguments=tuple(arguments))
        return replace(self, configuration=configuration)

    def select(self) -> HandlerSelection:
        """Choose the models to serve from the installed handlers; imports no handler.

        If the plugin directory has faults, those of the selection would only follow
        from them, and are left out.
        """
        wanted, malformed = selection.parse(self.configuration.settings.oip_handlers)
        installed = list_handlers(self.plugins())
        choices, wrong = choose(wanted, installed)
        faults = self.plugin_dir_faults or (*malformed, *wrong)
        return HandlerSelection(tuple(installed), tuple(choices), faults)


def assemble(
    arguments: Sequence[str],
    extensions: Iterable[object] = (),
    program: Mapping[str, Any] | None = None,
) -> Launch:
    """Read every option once, and make the plugin directory importable.

    `extensions` are registered before the installed ones; `program` has the options
    that a program sets in its code.
    """
    worker = identity.from_environment()
    configuration, faults = read(arguments, program=program)
    prepared = worker.plugins if worker else None
    plugin_dir_faults = wheels.add(configuration.settings, prepared)
    return Launch(
        configuration,
        tuple(faults),
        tuple(plugin_dir_faults),
        worker,
        cache(partial(create_manager, extensions)),
    )
