"""From the options to the guard: what is wrong with them, and what to warn of."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from oip_host.auth import scopes
from oip_host.auth.gate import Guard
from oip_host.auth.tokens import (
    ALGORITHMS,
    SHARED,
    JwtRules,
    Key,
    public_keys,
    shared_keys,
    static_tokens,
)
from oip_host.config.settings import Configuration, Settings
from oip_host.config.watched_file import Renewed
from oip_host.errors import ConfigurationError, nearest

__all__ = ["exposed", "faults", "guard", "warnings"]

T = TypeVar("T")

_OF_JWTS = ("auth_secret", "auth_secret_file", "auth_jwks_file")
_SOURCES = (*_OF_JWTS, "auth_tokens_file")
"""What tokens are held against."""


def guard(settings: Settings) -> Guard | None:
    """What knows the tokens, where they are asked for; raises ConfigurationError."""
    made, wrong = _made(settings)
    if wrong:
        raise ConfigurationError(wrong)
    return made


def faults(settings: Settings) -> list[str]:
    """A line for each thing that is wrong with the options and their files."""
    return _made(settings)[1]


def _made(settings: Settings) -> tuple[Guard | None, list[str]]:
    if not settings.auth_enabled:
        return None, []
    wrong: list[str] = []
    given = [name for name in _SOURCES if getattr(settings, name) is not None]
    if not given:
        expected = f"{', '.join(_SOURCES[:-1])} or {_SOURCES[-1]}"
        wrong.append(f"auth_enabled: nothing to hold tokens against, set {expected}")
    keys = _keys(settings, [name for name in given if name in _OF_JWTS], wrong)
    static = None
    if settings.auth_tokens_file is not None:
        path = settings.auth_tokens_file
        static = _read("auth_tokens_file", lambda: Renewed(path, static_tokens), wrong)
    words = settings.auth_default_scopes.replace(",", " ").split()
    wrong += scopes.faults(words, "auth_default_scopes")
    rules = JwtRules(
        settings.auth_audience,
        settings.auth_issuer,
        settings.auth_leeway_s,
        scopes.rights(words),
    )
    return Guard(keys or (), rules, static), wrong


def _keys(settings: Settings, given: list[str], wrong: list[str]) -> Any:
    """The keys of JWTs, where there are any, from the one option that gives them."""
    if not given:
        return None
    if len(given) > 1:
        wrong.append(f"{given[0]}: found {' and '.join(given)}, expected one of them")
        return None
    (option,) = given
    algorithms = _algorithms(settings, option, wrong)
    if not algorithms:
        return None
    if option == "auth_secret":
        assert settings.auth_secret is not None
        secret = settings.auth_secret.get_secret_value().encode()
        return _read(option, lambda: shared_keys(secret, algorithms), wrong)
    read = public_keys if option == "auth_jwks_file" else _keys_of_file
    path = getattr(settings, option)
    parse = partial(read, algorithms=algorithms)
    return _read(option, lambda: Renewed(path, parse), wrong)


def _keys_of_file(content: bytes, algorithms: list[str]) -> tuple[Key, ...]:
    return shared_keys(content.rstrip(b"\r\n"), algorithms)


def _algorithms(settings: Settings, option: str, wrong: list[str]) -> list[str]:
    """The algorithms that fit the keys of an option; none where one does not.

    One that takes a public key for a shared secret would let everybody sign.
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


def _read(option: str, make: Callable[[], T], wrong: list[str]) -> T | None:
    """What is made of an option, or None and a fault."""
    try:
        return make()
    except OSError as error:
        wrong.append(f"{option}: {error.filename!r} cannot be read: {error.strerror}")
    except ValueError as error:
        wrong.append(f"{option}: {error}")
    return None


def warnings(configuration: Configuration) -> Iterator[str]:
    """What looks like protection and is none, and a secret that others can read."""
    settings = configuration.settings
    given = {path[0]: origin.source for path, origin in configuration.origins.items()}
    for name in _SOURCES:
        if name in given and not settings.auth_enabled:
            yield (
                f"{given[name]} is set, but auth_enabled is false: nobody is asked "
                "for a token"
            )
    if given.get("auth_secret", "").startswith("--"):
        yield (
            "--auth_secret: everybody on this machine can read the arguments of a "
            "process; set AUTH_SECRET or auth_secret_file instead"
        )


def exposed(settings: Settings) -> str | None:
    """A warning where other machines reach a host that asks nobody for a token."""
    if settings.auth_enabled or _is_loopback(settings.oip_bind):
        return None
    may = "ask every model"
    if settings.oip_model_control == "explicit":
        may += ", and load and unload it"
    return (
        f"anyone who reaches a port at {settings.oip_bind} may {may}: auth_enabled is "
        "false; set it, or let a gateway ask who comes"
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
