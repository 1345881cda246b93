"""Choosing handlers: the installed ones that a selection means, and their models."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pkgutil import resolve_name
from typing import Any

from oip_host.config.model_options import Key
from oip_host.config.selection import Item, Selection
from oip_host.errors import ConfigurationError, nearest
from oip_host.hookspecs import HandlerEntry
from oip_host.plugins.discovery import HANDLERS, canonical

__all__ = ["Choice", "choose"]


@dataclass(frozen=True)
class Choice:
    """A model to serve and the handler that serves it."""

    item: Item
    entry: HandlerEntry
    named: bool
    """Whether the selection names the handler, rather than selecting all of them."""

    @property
    def key(self) -> Key:
        """The name and the version of the model."""
        return self.item.model, self.item.version


def choose(
    selection: Selection, entries: Sequence[HandlerEntry]
) -> tuple[list[Choice], list[str]]:
    """Return the models to serve, and every fault of the selection as one line each."""
    faults: list[str] = []
    excluded = list(_find_each(selection.excluded, entries, faults).values())
    choices = _choose_named(selection.items, entries, excluded, faults)
    if selection.everything:
        named = [choice.entry for choice in choices]
        others = [e for e in entries if e not in excluded and e not in named]
        choices += [Choice(Item(e.name, e.name), e, named=False) for e in others]
        faults += _reject_ambiguous(others)
    faults += _reject_duplicates(choices)
    if selection.everything and not entries and not choices:
        faults.append(
            f"no handler is installed: pip install a package with an '{HANDLERS}' "
            "entry point, or name one as package.module:Class"
        )
    return choices, faults


def _choose_named(
    items: Sequence[Item],
    entries: Sequence[HandlerEntry],
    excluded: Sequence[HandlerEntry],
    faults: list[str],
) -> list[Choice]:
    """Return the models that the selection names, and add what is wrong with them."""
    choices = []
    for item in items:
        for entry in _find_each([item.handler], entries, faults).values():
            choices.append(Choice(item, entry, named=True))
            if entry in excluded:
                faults.append(
                    f"OIP_HANDLERS: {item.handler!r} is selected and excluded"
                )
    return choices


def _reject_ambiguous(entries: Sequence[HandlerEntry]) -> Iterator[str]:
    """Yield a line for each name that several distributions offer."""
    by_name: dict[str, list[HandlerEntry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    for name, same in by_name.items():
        if len(same) > 1:
            yield _explain_ambiguous(name, same)


def _reject_duplicates(choices: Sequence[Choice]) -> Iterator[str]:
    """Yield a line for each model that is selected twice in one version."""
    seen: dict[Key, Choice] = {}
    for choice in choices:
        first = seen.setdefault(choice.key, choice)
        if first is not choice and (first.named or choice.named):
            yield (
                f"OIP_HANDLERS: model '{choice.item.model}' version "
                f"'{choice.item.version}' is selected twice, from "
                f"{first.item.handler!r} and {choice.item.handler!r}"
            )


def _find_each(
    references: Iterable[str], entries: Sequence[HandlerEntry], faults: list[str]
) -> dict[str, HandlerEntry]:
    """Return the handler of each reference, and add a fault for each without one."""
    handlers = {}
    for reference in references:
        try:
            handlers[reference] = _find(reference, entries)
        except ConfigurationError as error:
            faults.extend(error.faults)
    return handlers


def _find(reference: str, entries: Sequence[HandlerEntry]) -> HandlerEntry:
    """Return the one handler that a reference means; raises ConfigurationError."""
    if ":" in reference:
        return _from_import_path(reference)
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
        raise ConfigurationError([_explain_ambiguous(name, same)])
    known = [e.name for e in entries]
    if distribution:
        known = [f"{e.distribution}/{e.name}" for e in entries]
    raise ConfigurationError(
        [
            f"OIP_HANDLERS: no installed handler is named {reference!r}"
            f"{nearest(reference, known)}; installed: {', '.join(known) or 'none'}"
        ]
    )


def _explain_ambiguous(name: str, same: Sequence[HandlerEntry]) -> str:
    """Return the line for a name that several distributions offer."""
    spelled = " or ".join(
        f"{e.distribution}/{name}" if e.distribution else e.target for e in same
    )
    return (
        f"OIP_HANDLERS: handler {name!r} is offered by "
        f"{' and '.join(e.origin for e in same)}; write {spelled}"
    )


@cache
def _from_import_path(reference: str) -> HandlerEntry:
    """Return a handler by its import path, for code that is not packaged yet.

    The same reference gives the same handler, so that several models can share it.
    """
    _, _, attributes = reference.partition(":")

    def load() -> Any:
        # such code lies in the working directory, which uvicorn adds, too
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return resolve_name(reference)

    return HandlerEntry(attributes, reference, load)
