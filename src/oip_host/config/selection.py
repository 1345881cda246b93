"""The grammar of `OIP_HANDLERS`: which models to serve, from which handlers.

    selection  = item { "," item }
    item       = "*" | "-" handler | [ model [ "@" version ] "=" ] handler [ "?" ]
    handler    = name | distribution "/" name | package.module ":" Class

Unset or `*` selects every installed handler that can run as configured. `?` marks a
model that does not count towards the server's readiness.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DEFAULT_VERSION", "Item", "Selection", "parse"]

DEFAULT_VERSION = "1"
"""The version of a model that is selected without one, as in Triton."""

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.\-]*"
_DOTTED = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_HANDLER = rf"(?:{_DOTTED}:{_DOTTED}|(?:{_NAME}/)?{_NAME})"
_ITEM = re.compile(
    rf"(?:(?P<model>{_NAME})(?:@(?P<version>[A-Za-z0-9_.+\-]+))?=)?"
    rf"(?P<handler>{_HANDLER})(?P<optional>\??)"
)
_EXCLUDED = re.compile(rf"-(?P<handler>{_HANDLER})")


@dataclass(frozen=True)
class Item:
    """One selected model, as written."""

    handler: str
    model: str
    version: str = DEFAULT_VERSION
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.model}@{self.version}{'?' if self.optional else ''}"


@dataclass(frozen=True)
class Selection:
    """The models and handlers that `OIP_HANDLERS` asks for."""

    items: tuple[Item, ...] = ()
    excluded: tuple[str, ...] = ()
    everything: bool = False
    """Whether every other installed handler is selected too."""


def parse(text: str | None) -> tuple[Selection, list[str]]:
    """Return a selection, and one line for each item that breaks the grammar.

    None selects everything; empty text selects nothing, which is a fault.
    """
    if text is None:
        return Selection(everything=True), []
    if not text.strip():
        return Selection(), [
            "OIP_HANDLERS is empty, expected handler names, or * for all"
        ]
    items: list[Item] = []
    excluded: list[str] = []
    faults: list[str] = []
    everything = False
    start = 0
    for part in text.split(","):
        word = part.strip()
        at = start + part.index(word) if word else start
        start += len(part) + 1
        pattern = _EXCLUDED if word.startswith("-") else _ITEM
        match = pattern.match(word)
        if word == "*":
            everything = True
        elif match is None or match.end() != len(word):
            faults.append(_fault(text, word, at + (match.end() if match else 0)))
        elif pattern is _EXCLUDED:
            excluded.append(match["handler"])
        else:
            items.append(_item(match))
    everything = everything or not (items or faults)
    return Selection(tuple(items), tuple(excluded), everything), faults


def _item(match: re.Match[str]) -> Item:
    """Return the item that was matched, its model's name and version filled in."""
    handler = match["handler"]
    return Item(
        handler=handler,
        model=match["model"] or re.split(r"[/:]", handler)[-1],
        version=match["version"] or DEFAULT_VERSION,
        optional=bool(match["optional"]),
    )


def _fault(text: str, word: str, at: int) -> str:
    """Return the line for a word whose first wrong character is at this offset."""
    found = f"{text[at]!r} in {word!r}" if word and at < len(text) else "nothing"
    return (
        f"OIP_HANDLERS: at character {at + 1}: found {found}, "
        "expected [model[@version]=]handler[?], -handler or *"
    )
