"""From the options to a token verifier: their faults, and what to warn of."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from oip_host.auth import scopes
from oip_host.auth.tokens import (
    ALGORITHMS,
    SHARED,
    JwtRules,
    Key,
    make_shared_keys,
    parse_jwks,
    parse_static_tokens,
)
from oip_host.auth.verifier import TokenVerifier
from oip_host.config.configuration import Configuration
from oip_host.config.settings import Settings
from oip_host.config.watched_file import WatchedFile
from oip_host.errors import ConfigurationError, nearest

__all__ = ["build_verifier", "describe_exposure", "find_faults", "find_warnings"]

T = TypeVar("T")

_JWT_OPTIONS = ("auth_secret", "auth_secret_file", "auth_jwks_file")
_KEY_OPTIONS = (*_JWT_OPTIONS, "auth_tokens_file")
"""The options that say which tokens are valid."""


def build_verifier(settings: Settings) -> TokenVerifier | None:
    """Return the verifier of tokens, or None if clients need none.

    Raises ConfigurationError.
    """
    verifier, wrong = _build(settings)
    if wrong:
        raise ConfigurationError(wrong)
    return verifier


def find_faults(settings: Settings) -> list[str]:
    """Return a line for each fault of the options and their files."""
    return _build(settings)[1]


def _build(settings: Settings) -> tuple[TokenVerifier | None, list[str]]:
    """Return the verifier, and a line for each fault that forbids its use."""
    if not settings.auth_enabled:
        return None, []
    wrong: list[str] = []
    given = [name for name in _KEY_OPTIONS if getattr(settings, name) is not None]
    if not given:
        expected = f"{', '.join(_KEY_OPTIONS[:-1])} or {_KEY_OPTIONS[-1]}"
        wrong.append(f"auth_enabled: found no keys or tokens, set {expected}")
    keys = _load_keys(settings, [name for name in given if name in _JWT_OPTIONS], wrong)
    static = None
    if settings.auth_tokens_file is not None:
        path = settings.auth_tokens_file
        static = _try_load(
            "auth_tokens_file", lambda: _watch(path, parse_static_tokens), wrong
        )
    words = settings.auth_default_scopes.replace(",", " ").split()
    wrong += scopes.find_scope_faults(words, "auth_default_scopes")
    rules = JwtRules(
        settings.auth_audience,
        settings.auth_issuer,
        settings.auth_leeway_s,
        scopes.parse_scopes(words),
    )
    return TokenVerifier(keys or (), rules, static), wrong


def _load_keys(settings: Settings, given: list[str], wrong: list[str]) -> Any:
    """Return the keys of JWTs from the one option that names them, if any does."""
    if not given:
        return None
    if len(given) > 1:
        wrong.append(f"{given[0]}: found {' and '.join(given)}, expected one of them")
        return None
    (option,) = given
    algorithms = _choose_algorithms(settings, option, wrong)
    if not algorithms:
        return None
    if option == "auth_secret":
        assert settings.auth_secret is not None
        secret = settings.auth_secret.get_secret_value().encode()
        return _try_load(option, lambda: make_shared_keys(secret, algorithms), wrong)
    parse = parse_jwks if option == "auth_jwks_file" else _parse_secret_file
    path = getattr(settings, option)
    parse_keys = partial(parse, algorithms=algorithms)
    return _try_load(option, lambda: _watch(path, parse_keys), wrong)


def _parse_secret_file(content: bytes, algorithms: list[str]) -> tuple[Key, ...]:
    return make_shared_keys(content.rstrip(b"\r\n"), algorithms)


def _choose_algorithms(settings: Settings, option: str, wrong: list[str]) -> list[str]:
    """Return the algorithms if all fit the keys of an option, otherwise none.

    An algorithm that used a public key as a shared secret would let anybody sign.
    """
    fitting = [
        name for name in ALGORITHMS if (name in SHARED) != (option == "auth_jwks_file")
    ]
    names = [name.strip() for name in settings.auth_algorithm.split(",")]
    unfit = [name for name in names if name not in fitting]
    wrong += [
        f"auth_algorithm: found {name!r}, expected {', '.join(fitting)} for {option}"
        f"{nearest(name, fitting)}"
        for name in unfit
    ]
    return [] if unfit else names


def _watch(path: str, parse: Callable[[bytes], T]) -> WatchedFile[T]:
    """Return what `parse` makes of a file, renewed when the file changes."""
    return WatchedFile([path], lambda: parse(Path(path).read_bytes()))


def _try_load(option: str, make: Callable[[], T], wrong: list[str]) -> T | None:
    """Return what `make` makes of an option; None, and a fault, if it fails."""
    try:
        return make()
    except OSError as error:
        wrong.append(f"{option}: could not read {error.filename!r}: {error.strerror}")
    except ValueError as error:
        wrong.append(f"{option}: {error}")
    return None


def find_warnings(configuration: Configuration) -> Iterator[str]:
    """Yield a line for protection that is not on, and for a secret others can read."""
    settings = configuration.settings
    given = {path[0]: origin.source for path, origin in configuration.origins.items()}
    for name in _KEY_OPTIONS:
        if name in given and not settings.auth_enabled:
            yield (
                f"{given[name]} is set, but auth_enabled is false: "
                "clients need no token"
            )
    if given.get("auth_secret", "").startswith("--"):
        yield (
            "--auth_secret: every user of this machine can read the arguments of a "
            "process; set AUTH_SECRET or auth_secret_file instead"
        )


def describe_exposure(settings: Settings) -> str | None:
    """Return a warning if other machines can reach a host that needs no token."""
    if settings.auth_enabled or _is_loopback(settings.oip_bind):
        return None
    uses = "use"
    if settings.oip_model_control == "explicit":
        uses = "use, load and unload"
    return (
        f"no authentication: anyone who can reach {settings.oip_bind} can {uses} every "
        "model; set auth_enabled or put an authenticating gateway in front"
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
