"""Who sends a request: the bearer token in its header, verified and remembered."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256

from oip_handler.errors import InvalidToken, Unauthenticated
from oip_host.auth.scopes import STRANGER, Principal
from oip_host.auth.tokens import JwtRules, Key, find_static_principal, verify_jwt
from oip_host.config.watched_file import Renewed

__all__ = ["TokenVerifier"]

CACHE_SIZE = 1024
"""How many valid tokens are remembered."""
CACHE_S = 60.0
"""Seconds for which a valid token is remembered."""
LOOK_EVERY_S = 1.0
"""Seconds between two checks whether a file has changed."""

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")
"""The header as RFC 6750 defines it, with the scheme in upper or lower case."""


class TokenVerifier:
    """Identifies the bearers of tokens by the keys and static tokens in effect."""

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
        self._cache: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        """The time of expiry and the bearer of valid tokens, by their digests."""
        self._looked = time.monotonic()

    def identify(self, authorization: Sequence[str]) -> Principal:
        """Return the sender of the values of a header `Authorization`.

        Raises Unauthenticated without a token, and InvalidToken.
        """
        token = _parse_header(authorization)
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            self._renew()
        digest = sha256(token.encode()).digest()
        until, principal = self._cache.get(digest, (0.0, STRANGER))
        if time.time() < until:
            self._cache.move_to_end(digest)
            return principal
        principal, until = self._verify(token, digest)
        self._cache[digest] = min(until, time.time() + CACHE_S), principal
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return principal

    def _verify(self, token: str, digest: bytes) -> tuple[Principal, float]:
        """Return a token's bearer, and when the token expires."""
        if self._static is not None:
            principal = find_static_principal(digest, self._static.value)
            if principal is not None:
                return principal, float("inf")
        keys = self._keys.value if isinstance(self._keys, Renewed) else self._keys
        return verify_jwt(token, keys, self._rules)

    def _renew(self) -> None:
        """Apply changes of the files, and forget the tokens remembered before."""
        self._looked = time.monotonic()
        renewed = [file.renew() for file in self._files]
        if any(renewed):
            self._cache.clear()


def _parse_header(authorization: Sequence[str]) -> str:
    """Return the token in the values of the header, of which there may be one."""
    if not authorization:
        raise Unauthenticated("expected a token: Authorization: Bearer <token>")
    if len(authorization) > 1:
        raise InvalidToken("found several headers Authorization, expected one")
    match = _BEARER.fullmatch(authorization[0])
    if match is None:
        raise InvalidToken("found another Authorization, expected Bearer <token>")
    return match[1]
