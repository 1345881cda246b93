"""Scopes: what the bearer of a token may do, and with which models.

A scope is `infer`, `metadata` or `repository`, which holds for every model, or has a
pattern of model names after a colon: `infer:fraud-*`. Patterns are those of `fnmatch`,
and are case-sensitive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from oip_host.errors import nearest

__all__ = [
    "SCOPES",
    "STRANGER",
    "Principal",
    "Rights",
    "find_scope_faults",
    "parse_claims",
    "parse_scopes",
]

SCOPES = ("infer", "metadata", "repository")
ALL = "*"
"""The pattern that matches every model."""
_CLAIMS = ("scope", "scopes", "scp")
"""The claims in which a JWT may have its scopes: RFC 8693's, and two others in use."""

Rights = frozenset[tuple[str, str]]
"""Scopes, each with a pattern."""


@dataclass(frozen=True)
class Principal:
    """The sender of a request, and what it may do."""

    name: str
    rights: Rights = frozenset()

    def may(self, scope: str, model: str) -> bool:
        """Return whether the scope is granted for a model, which need not exist."""
        return (scope, ALL) in self.rights or any(
            granted == scope and fnmatchcase(model, pattern)
            for granted, pattern in self.rights
        )

    def may_all(self, scope: str) -> bool:
        """Return whether the scope is granted for every model."""
        return (scope, ALL) in self.rights

    def may_some(self, scope: str) -> bool:
        """Return whether the scope is granted for any model at all."""
        return any(granted == scope for granted, _ in self.rights)


STRANGER = Principal("stranger")
"""The sender of a request without a token, who has no rights."""


def parse_scopes(words: Iterable[Any]) -> Rights:
    """Return the rights that words grant; words that are no scope grant none."""
    granted = set()
    for word in words:
        scope, colon, pattern = str(word).partition(":")
        if scope in SCOPES and (pattern or not colon):
            granted.add((scope, pattern or ALL))
    return frozenset(granted)


def find_scope_faults(words: Iterable[str], where: str) -> list[str]:
    """Return a line for each word that is no scope."""
    lines = []
    for word in words:
        if not parse_scopes([word]):
            close = nearest(word.partition(":")[0], SCOPES)
            expected = f"{', '.join(SCOPES)}, with :<pattern> or without"
            lines.append(f"{where}: found {word!r}, expected {expected}{close}")
    return lines


def parse_claims(claims: dict[str, Any], default: Rights) -> Rights:
    """Return the rights in the claims of a JWT, or `default` if none is of scopes."""
    values = [claims[name] for name in _CLAIMS if name in claims]
    if not values:
        return default
    words: list[Any] = []
    for value in values:
        words += value.split() if isinstance(value, str) else _keep_texts(value)
    return parse_scopes(words)


def _keep_texts(claim: Any) -> list[str]:
    """Return the strings of an array; a claim of another kind has none."""
    words = claim if isinstance(claim, list) else []
    return [word for word in words if isinstance(word, str)]
