"""The rights of a request: the one rule for REST and gRPC.

Both edges have an `Authorizer`. It learns who sends a request before the body is read,
and decides whether they may do it before a model is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import TypeVar

from oip_handler.errors import Forbidden
from oip_host.auth.scopes import STRANGER, Principal
from oip_host.auth.verifier import TokenVerifier

__all__ = ["OPEN", "Authorizer"]

T = TypeVar("T")

OPEN = frozenset({"live", "health", "ready"})
"""Actions that need no token: whether the server and a model are up, and no more."""
_SCOPES_BY_ACTION = {
    "infer": "infer",
    "metadata": "metadata",
    "config": "metadata",
    "stats": "metadata",
    "load": "repository",
    "unload": "repository",
}
"""The scope that an action on one model needs."""
_LISTS = frozenset({"index", "models", "stats"})
"""Actions on several models, which show each client only the models it may know of."""
_ANY_TOKEN = frozenset({"server"})
"""Actions for which any valid token is enough."""

_principal: ContextVar[Principal] = ContextVar("oip_host_principal", default=STRANGER)
"""The sender of the request that this task answers."""


class Authorizer:
    """The permission of each request; without a verifier everything is allowed."""

    def __init__(self, verifier: TokenVerifier | None) -> None:
        self._verifier = verifier

    @property
    def is_enabled(self) -> bool:
        """Whether clients need a token."""
        return self._verifier is not None

    def authenticate(self, authorization: Sequence[str], is_open: bool = False) -> None:
        """Learn who sends a request, from the values of its header `Authorization`.

        Raises Unauthenticated and InvalidToken. With `is_open` no token is read.
        """
        if self._verifier is None:
            return
        _principal.set(STRANGER)
        if not is_open:
            _principal.set(self._verifier.identify(authorization))

    def require(self, action: str, model: str = "") -> None:
        """Raise Forbidden unless the sender may do this to a model, or to the server.

        The outcome does not depend on whether the model exists. An action that is not
        listed here needs `metadata` for all models.
        """
        if self._verifier is None or action in OPEN:
            return
        principal = _principal.get()
        if action in _ANY_TOKEN and principal is not STRANGER:
            return
        if action in _LISTS and not model:
            is_allowed, needed = principal.may_some("metadata"), "metadata"
        elif action in _SCOPES_BY_ACTION:
            scope = _SCOPES_BY_ACTION[action]
            is_allowed, needed = principal.may(scope, model), f"{scope}:{model}"
        else:
            is_allowed, needed = principal.may_all("metadata"), "metadata:*"
        if not is_allowed:
            raise Forbidden(f"the token lacks the scope '{needed}'")

    def filter_visible(self, entries: Iterable[T], name: Callable[[T], str]) -> list[T]:
        """Return the entries of a list whose models the sender may know of."""
        if self._verifier is None:
            return list(entries)
        principal = _principal.get()
        return [entry for entry in entries if principal.may("metadata", name(entry))]
