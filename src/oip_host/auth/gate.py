"""Who asks, and whether that one may: the one rule for REST and gRPC.

Both edges have a `Gate`. It learns of each request before the body is read who asks,
and says before a model is looked up whether that one may.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from hashlib import sha256
from typing import TypeVar

from oip_handler.errors import Forbidden, InvalidToken, Unauthenticated
from oip_host.auth.scopes import STRANGER, Principal
from oip_host.auth.tokens import JwtRules, Key, static_principal, verified
from oip_host.config.watched_file import Renewed

__all__ = ["OPEN", "Gate", "Guard"]

T = TypeVar("T")

OPEN = frozenset({"live", "health", "ready"})
"""What is answered to everybody: whether the server and a model are up, and no more."""
_SCOPE_OF = {
    "infer": "infer",
    "metadata": "metadata",
    "config": "metadata",
    "stats": "metadata",
    "load": "repository",
    "unload": "repository",
}
"""The scope for what is done with a model."""
_LISTS = frozenset({"index", "models", "stats"})
"""What tells of several models, and to each only of those that it may know of."""
_TOKEN_ENOUGH = frozenset({"server"})

KEPT = 1024
"""Tokens that are remembered as genuine."""
KEPT_S = 60.0
"""Seconds for which one is."""
LOOK_EVERY_S = 1.0
"""Seconds between two looks at whether a file has changed."""

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")
"""The header, as RFC 6750 has it, the scheme in any case."""

_asking: ContextVar[Principal] = ContextVar("oip_host_principal", default=STRANGER)
"""Who asks what this task answers."""


class Guard:
    """Knows the tokens of a host: those that its files say, as they are now."""

    def __init__(
        self,
        keys: tuple[Key, ...] | Renewed[tuple[Key, ...]] = (),
        rules: JwtRules | None = None,
        static: Renewed[tuple[tuple[bytes, Principal], ...]] | None = None,
    ) -> None:
        self._keys = keys
        self._rules = rules or JwtRules()
        self._static = static
        self._files = [each for each in (keys, static) if isinstance(each, Renewed)]
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._looked = time.monotonic()

    def principal(self, authorization: Sequence[str]) -> Principal:
        """Who sends the values of the header `Authorization`.

        Raises Unauthenticated without one, and InvalidToken.
        """
        token = _token(authorization)
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            self._renew()
        digest = sha256(token.encode()).digest()
        until, principal = self._known.get(digest, (0.0, STRANGER))
        if time.time() < until:
            self._known.move_to_end(digest)
            return principal
        until, principal = self._verified(token, digest)
        self._known[digest] = min(until, time.time() + KEPT_S), principal
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return principal

    def _verified(self, token: str, digest: bytes) -> tuple[float, Principal]:
        """Until when a token is genuine, and who bears it."""
        if self._static is not None:
            principal = static_principal(digest, self._static.value)
            if principal is not None:
                return float("inf"), principal
        keys = self._keys.value if isinstance(self._keys, Renewed) else self._keys
        principal, until = verified(token, keys, self._rules)
        return until, principal

    def _renew(self) -> None:
        """Take up what has changed in the files, and forget who was known before."""
        self._looked = time.monotonic()
        renewed = [file.renew() for file in self._files]
        if any(renewed):
            self._known.clear()


def _token(authorization: Sequence[str]) -> str:
    """The token in the values of the header, of which there may be one."""
    if not authorization:
        raise Unauthenticated("expected a token: Authorization: Bearer <token>")
    if len(authorization) > 1:
        raise InvalidToken("found several headers Authorization, expected one")
    found = _BEARER.fullmatch(authorization[0])
    if found is None:
        raise InvalidToken("found another Authorization, expected Bearer <token>")
    return found[1]


class Gate:
    """What an edge asks of each request; without a guard everybody may everything."""

    def __init__(self, guard: Guard | None) -> None:
        self._guard = guard

    @property
    def guarded(self) -> bool:
        """Whether tokens are asked for."""
        return self._guard is not None

    def enter(self, authorization: Sequence[str], is_open: bool = False) -> None:
        """Learn who asks, from the values of the header `Authorization`.

        Raises Unauthenticated, but not for what is open: nobody's token is read there.
        """
        if self._guard is None:
            return
        _asking.set(STRANGER)
        if not is_open:
            _asking.set(self._guard.principal(authorization))

    def check(self, action: str, model: str = "") -> None:
        """Whether who asks may do this with a model, or the server; raises Forbidden.

        It is the same whether there is such a model or not. An action that is not known
        here needs `metadata` for all models.
        """
        if self._guard is None or action in OPEN:
            return
        asking = _asking.get()
        if action in _TOKEN_ENOUGH and asking is not STRANGER:
            return
        if action in _LISTS and not model:
            allowed, needed = asking.may_some("metadata"), "metadata"
        elif action in _SCOPE_OF:
            scope = _SCOPE_OF[action]
            allowed, needed = asking.may(scope, model), f"{scope}:{model}"
        else:
            allowed, needed = asking.may_all("metadata"), "metadata:*"
        if not allowed:
            raise Forbidden(f"the token has not the scope '{needed}'")

    def visible(self, entries: Iterable[T], name: Callable[[T], str]) -> list[T]:
        """The entries of a list whose models who asks may know of."""
        if self._guard is None:
            return list(entries)
        asking = _asking.get()
        return [entry for entry in entries if asking.may("metadata", name(entry))]
