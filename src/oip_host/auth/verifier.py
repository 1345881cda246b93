"""Who sends a request: the bearer token in its header, verified and remembered."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256

from oip_handler.errors import InvalidToken, Unauthenticated
from oip_host.auth.scopes import STRANGER, Principal
from oip_host.auth.tokens import JwtRules, Key, find_static_principal, verify_jwt
from oip_host.config.watched_file import WatchedFile, watch_files

__all__ = ["TokenVerifier"]

log = logging.getLogger("oip_host")

CACHE_SIZE = 1024
"""How many valid tokens are remembered."""
CACHE_S = 60.0
"""Seconds for which a valid token is remembered."""

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")
"""The header as RFC 6750 defines it, with the scheme in upper or lower case."""


class TokenVerifier:
    """Identifies the bearers of tokens by the keys and static tokens in use.

    `start` and `stop` begin and end the renewal of those that are in files.
    """

    def __init__(
        self,
        keys: tuple[Key, ...] | WatchedFile[tuple[Key, ...]] = (),
        rules: JwtRules | None = None,
        static: WatchedFile[tuple[tuple[bytes, Principal], ...]] | None = None,
    ) -> None:
        self._keys = keys
        self._rules = rules or JwtRules()
        self._static = static
        self.files = [each for each in (keys, static) if isinstance(each, WatchedFile)]
        self._cache: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        """The time of expiry and the bearer of valid tokens, by their digests."""
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch the files, and use what is new in them."""
        if self.files:
            self._watching = asyncio.create_task(watch_files(self.files, self.react))

    def stop(self) -> None:
        """End the watch."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def react(self, is_renewed: bool) -> None:
        """Forget the tokens that were verified before their file was renewed."""
        if is_renewed:
            self._cache.clear()
            log.info("the renewed keys and tokens are in use")

    def identify(self, authorization: Sequence[str]) -> Principal:
        """Return the sender of the values of a header `Authorization`.

        Raises Unauthenticated without a token, and InvalidToken.
        """
        token = _parse_header(authorization)
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
        keys = self._keys.value if isinstance(self._keys, WatchedFile) else self._keys
        return verify_jwt(token, keys, self._rules)


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
