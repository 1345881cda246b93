"""Scopes: what the bearer of a token may do, and with which models.

A scope is `infer`, `metadata` or `repository`, which holds for every model, or has the
pattern of models' names behind a colon: `infer:fraud-*`. Patterns are those of
`fnmatch`, and upper and lower case differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from oip_host.errors import nearest

__all__ = ["SCOPES", "STRANGER", "Principal", "Rights", "claimed", "faults", "rights"]

SCOPES = ("infer", "metadata", "repository")
ALL = "*"
"""The pattern of every model."""
_CLAIMS = ("scope", "scopes", "scp")
"""Where a JWT has its scopes: RFC 8693, and what others write."""

Rights = frozenset[tuple[str, str]]
"""Scopes, each with a pattern."""


@dataclass(frozen=True)
class Principal:
    """Who asks, and what that one may do."""

    name: str
    rights: Rights = frozenset()

    def may(self, scope: str, model: str) -> bool:
        """Whether a scope is there for a model, be there such a model or not."""
        return (scope, ALL) in self.rights or any(
            held == scope and fnmatchcase(model, pattern)
            for held, pattern in self.rights
        )

    def may_all(self, scope: str) -> bool:
        """Whether a scope is there for whatever model."""
        return (scope, ALL) in self.rights

    def may_some(self, scope: str) -> bool:
        """Whether a scope is there at all."""
        return any(held == scope for held, _ in self.rights)


STRANGER = Principal("stranger")
"""Who brings no token, and may do what everybody may."""


def rights(words: Iterable[Any]) -> Rights:
    """The rights that words give; those that are no scope of this host give none."""
    found = set()
    for word in words:
        scope, colon, pattern = str(word).partition(":")
        if scope in SCOPES and (pattern or not colon):
            found.add((scope, pattern or ALL))
    return frozenset(found)


def faults(words: Iterable[str], where: str) -> list[str]:
    """A line for each word that is no scope."""
    lines = []
    for word in words:
        if not rights([word]):
            close = nearest(word.partition(":")[0], SCOPES)
            expected = f"{', '.join(SCOPES)}, with :<pattern> or without"
            lines.append(f"{where}: found {word!r}, expected {expected}{close}")
    return lines


def claimed(claims: dict[str, Any], otherwise: Rights) -> Rights:
    """The rights in the claims of a JWT; `otherwise` where no claim is of scopes."""
    found = [claims[name] for name in _CLAIMS if name in claims]
    if not found:
        return otherwise
    words: list[Any] = []
    for claim in found:
        words += claim.split() if isinstance(claim, str) else _texts(claim)
    return rights(words)


def _texts(claim: Any) -> list[str]:
    listed = claim if isinstance(claim, list) else []
    return [word for word in listed if isinstance(word, str)]
