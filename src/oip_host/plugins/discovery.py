"""Finding plugins: the pluggy manager, the offered handlers, and choosing among them.

Nothing here imports a handler, but for `load`: what is only found or listed is known by
its metadata.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pkgutil import resolve_name
from typing import Any

import importlib_metadata
import pluggy

from oip_host import hookspecs
from oip_host.config.selection import Item, Selection
from oip_host.errors import ConfigurationError, nearest
from oip_host.hookspecs import HandlerEntry, hookimpl
from oip_host.telemetry.crash_report import framed, named

__all__ = [
    "Choice",
    "EntryPointHandlers",
    "call_each",
    "choose",
    "load",
    "manager",
    "offered",
]

HANDLERS = "oip.handlers"
EXTENSIONS = "oip.plugins"

log = logging.getLogger("oip_host")


@dataclass(frozen=True)
class Choice:
    """A model to serve and the handler that serves it."""

    item: Item
    entry: HandlerEntry
    named: bool
    """Whether the selection names the handler, rather than taking all there are."""


class EntryPointHandlers:
    """The default source of handlers: entry points of the group `oip.handlers`."""

    @hookimpl
    def oip_handlers(self) -> list[HandlerEntry]:
        """One entry for each entry point; the first of equals on `sys.path` wins."""
        found: dict[tuple[str, str], HandlerEntry] = {}
        for point in importlib_metadata.entry_points(group=HANDLERS):
            name, version = _distribution(point)
            entry = HandlerEntry(point.name, point.value, point.load, name, version)
            found.setdefault((canonical(name or ""), point.name), entry)
        return list(found.values())


def manager(defaults: Iterable[object] = ()) -> pluggy.PluginManager:
    """A fresh manager with the default extensions and every installed one.

    An extension that does not import, or whose hooks do not fit, is logged by name with
    what was expected, and left out.
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
                "host extension '%s' of %s %s is left out: %s",
                point.name, name, version, error,
                exc_info=not isinstance(error, pluggy.PluginValidationError),
            )  # fmt: skip
    return plugins


def _register(
    plugins: pluggy.PluginManager, point: importlib_metadata.EntryPoint
) -> None:
    """Register an extension; raises where a hook is unknown or has a wrong argument."""
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
        raise pluggy.PluginValidationError(extension, _explained(error)) from None


def _explained(error: pluggy.PluginValidationError) -> str:
    """The fault and the signature of every hook that it speaks of, or else of all."""
    text = str(error)
    known = {name: f for name, f in vars(hookspecs).items() if name.startswith("oip_")}
    meant = [name for name in known if name in text] or known
    expected = (f"{name}{inspect.signature(known[name])}" for name in meant)
    return f"{text}; expected {', '.join(expected)}"


def _distribution(
    point: importlib_metadata.EntryPoint,
) -> tuple[str | None, str | None]:
    dist = point.dist
    return (dist.name, dist.version) if dist else (None, None)


def call_each(caller: pluggy.HookCaller, **arguments: Any) -> list[Any]:
    """What every extension's hook answers; one that raises is logged and left out.

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
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def offered(plugins: pluggy.PluginManager) -> list[HandlerEntry]:
    """Every handler that some extension offers, by name and distribution."""
    entries: list[HandlerEntry] = []
    for answer in call_each(plugins.hook.oip_handlers):
        entries.extend(answer)
    return sorted(entries, key=lambda e: (e.name, canonical(e.distribution or "")))


def choose(
    selection: Selection, entries: Sequence[HandlerEntry]
) -> tuple[list[Choice], list[str]]:
    """The models to serve, and every fault of the selection as one line each."""
    choices: list[Choice] = []
    faults: list[str] = []

    def found(reference: str) -> HandlerEntry | None:
        try:
            return _find(reference, entries)
        except ConfigurationError as error:
            faults.extend(error.faults)
            return None

    excluded = [entry for name in selection.excluded if (entry := found(name))]
    for item in selection.items:
        if entry := found(item.handler):
            if entry in excluded:
                faults.append(
                    f"OIP_HANDLERS: {item.handler!r} is selected and excluded"
                )
            choices.append(Choice(item, entry, named=True))
    if selection.everything:
        named = [choice.entry for choice in choices]
        rest = [e for e in entries if e not in excluded and e not in named]
        by_name: dict[str, list[HandlerEntry]] = {}
        for entry in rest:
            by_name.setdefault(entry.name, []).append(entry)
            choices.append(Choice(Item(entry.name, entry.name), entry, named=False))
        faults.extend(
            _ambiguous(name, same) for name, same in by_name.items() if len(same) > 1
        )
    faults.extend(_duplicates(choices))
    if selection.everything and not entries and not choices:
        faults.append(
            f"no handler is installed: pip install a package with an '{HANDLERS}' "
            "entry point, or name one as package.module:Class"
        )
    return choices, faults


def _duplicates(choices: Sequence[Choice]) -> list[str]:
    seen: dict[tuple[str, str], Choice] = {}
    faults = []
    for choice in choices:
        key = (choice.item.model, choice.item.version)
        first = seen.setdefault(key, choice)
        if first is not choice and (first.named or choice.named):
            faults.append(
                f"OIP_HANDLERS: model '{key[0]}' version '{key[1]}' is selected twice, "
                f"from {first.item.handler!r} and {choice.item.handler!r}"
            )
    return faults


def _find(reference: str, entries: Sequence[HandlerEntry]) -> HandlerEntry:
    """The one handler that a reference of the selection means."""
    if ":" in reference:
        return _unpackaged(reference)
    distribution, _, name = reference.rpartition("/")
    same = [entry for entry in entries if entry.name == name]
    if distribution:
        same = [
            e
            for e in same
            if canonical(e.distribution or "") == canonical(distribution)
        ]
    if len(same) == 1:
        return same[0]
    if same:
        raise ConfigurationError([_ambiguous(name, same)])
    known = [e.name for e in entries]
    if distribution:
        known = [f"{e.distribution}/{e.name}" for e in entries]
    raise ConfigurationError(
        [
            f"OIP_HANDLERS: no installed handler is named {reference!r}"
            f"{nearest(reference, known)}; installed: {', '.join(known) or 'none'}"
        ]
    )


def _ambiguous(name: str, same: Sequence[HandlerEntry]) -> str:
    spelled = " or ".join(
        f"{e.distribution}/{name}" if e.distribution else e.target for e in same
    )
    return (
        f"OIP_HANDLERS: handler {name!r} is offered by "
        f"{' and '.join(e.origin for e in same)}; write {spelled}"
    )


@cache
def _unpackaged(reference: str) -> HandlerEntry:
    """A handler by its import path, for code that is not packaged yet.

    The same reference is the same handler, so that several models can share it.
    """
    _, _, attributes = reference.partition(":")

    def load() -> Any:
        if (
            os.getcwd() not in sys.path
        ):  # as uvicorn does: such code lies where one works
            sys.path.insert(0, os.getcwd())
        return resolve_name(reference)

    return HandlerEntry(attributes, reference, load)


def load(entry: HandlerEntry) -> tuple[Any, str | None]:
    """Import a handler: itself and None, or None and why it does not import.

    The reason names the exception; its traceback goes to the log with the handler's
    distribution and version.
    """
    try:
        return framed("its import", named(entry))(entry.load), None
    except (Exception, SystemExit) as error:
        log.error(
            "handler '%s' (%s, %s) does not import:\n%s",
            entry.name, entry.target, entry.origin, traceback.format_exc(),
        )  # fmt: skip
        return None, f"{entry.target} does not import: {type(error).__name__}: {error}"
