"""Finding plugins: the pluggy manager of extensions, and the handlers they offer.

Only `import_handler` imports a handler: all others are known by their metadata.
"""

from __future__ import annotations

import inspect
import logging
import re
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import importlib_metadata
import pluggy

from oip_host import hookspecs
from oip_host.errors import nearest
from oip_host.hookspecs import HandlerEntry, hookimpl
from oip_host.telemetry.crash_report import describe_handler, rename_frame

__all__ = [
    "HANDLERS",
    "EntryPointHandlers",
    "call_each",
    "canonical",
    "create_manager",
    "import_handler",
    "list_handlers",
]

HANDLERS = "oip.handlers"
EXTENSIONS = "oip.plugins"

log = logging.getLogger("oip_host")


class EntryPointHandlers:
    """The default source of handlers: entry points of the group `oip.handlers`."""

    @hookimpl
    def oip_handlers(self) -> list[HandlerEntry]:
        """Offer each entry point; of equal ones the first on `sys.path`."""
        entries: dict[tuple[str, str], HandlerEntry] = {}
        for point in importlib_metadata.entry_points(group=HANDLERS):
            name, version = _distribution(point)
            entry = HandlerEntry(point.name, point.value, point.load, name, version)
            entries.setdefault((canonical(name or ""), point.name), entry)
        return list(entries.values())


def create_manager(defaults: Iterable[object] = ()) -> pluggy.PluginManager:
    """Return a fresh manager with the default extensions and every installed one.

    An extension that fails to import, or whose hooks do not fit, is logged by name with
    what was expected, and skipped.
    """
    plugins = pluggy.PluginManager("oip_host")
    plugins.add_hookspecs(hookspecs)
    for default in (EntryPointHandlers(), *defaults):
        plugins.register(default)
    for point in importlib_metadata.entry_points(group=EXTENSIONS):
        try:
            _register(plugins, point)
        except (Exception, SystemExit) as error:
            name, version = _distribution(point)
            log.error(
                "skipping host extension '%s' of %s %s: %s",
                point.name, name, version, error,
                exc_info=not isinstance(error, pluggy.PluginValidationError),
            )  # fmt: skip
    return plugins


def _register(
    plugins: pluggy.PluginManager, point: importlib_metadata.EntryPoint
) -> None:
    """Register an extension; raises if a hook is unknown or has a wrong argument."""
    extension = point.load()
    if isinstance(extension, type):
        extension = extension()
    try:
        plugins.register(extension, name=point.name)
        for caller in plugins.get_hookcallers(extension) or ():
            if caller.spec is None:
                known = [n for n in vars(hookspecs) if n.startswith("oip_")]
                raise pluggy.PluginValidationError(
                    extension,
                    f"unknown hook '{caller.name}'{nearest(caller.name, known)}",
                )
    except pluggy.PluginValidationError as error:
        if plugins.is_registered(extension):
            plugins.unregister(extension)
        raise pluggy.PluginValidationError(extension, _explain(error)) from None


def _explain(error: pluggy.PluginValidationError) -> str:
    """Return the fault and the signature of each hook that it names, or else of all."""
    text = str(error)
    known = {name: f for name, f in vars(hookspecs).items() if name.startswith("oip_")}
    meant = [name for name in known if name in text] or known
    expected = (f"{name}{inspect.signature(known[name])}" for name in meant)
    return f"{text}; expected {', '.join(expected)}"


def _distribution(
    point: importlib_metadata.EntryPoint,
) -> tuple[str | None, str | None]:
    """Return the name and version of the distribution that has an entry point."""
    dist = point.dist
    return (dist.name, dist.version) if dist else (None, None)


def call_each(caller: pluggy.HookCaller, **arguments: Any) -> list[Any]:
    """Return what every extension's hook answers; one that raises is logged.

    pluggy's own call ends at the first exception, which would silence the others.
    """
    answers = []
    for listener in caller.get_hookimpls():
        wanted = {name: arguments[name] for name in listener.argnames}
        try:
            answer = listener.function(**wanted)
            if isinstance(answer, Iterator):  # a generator raises while it is read
                answer = list(answer)
        except Exception:
            name = listener.plugin_name
            log.exception("host extension '%s' failed in %s", name, caller.name)
        else:
            answers += [answer] if answer is not None else []
    return answers


def canonical(distribution: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def list_handlers(plugins: pluggy.PluginManager) -> list[HandlerEntry]:
    """Return every handler that an extension offers, by name and distribution."""
    entries: list[HandlerEntry] = []
    for answer in call_each(plugins.hook.oip_handlers):
        entries.extend(answer)
    return sorted(entries, key=lambda e: (e.name, canonical(e.distribution or "")))


def import_handler(entry: HandlerEntry) -> tuple[Any, str | None]:
    """Import a handler: return it and None, or None and why it fails to import.

    The reason names the exception; its traceback goes to the log with the handler's
    distribution and version.
    """
    try:
        return rename_frame("its import", describe_handler(entry))(entry.load), None
    except (Exception, SystemExit) as error:
        log.error(
            "handler '%s' (%s, %s) failed to import:\n%s",
            entry.name, entry.target, entry.origin, traceback.format_exc(),
        )  # fmt: skip
        return None, f"{entry.target} failed to import: {type(error).__name__}: {error}"
