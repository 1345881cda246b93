"""Where option values are found: container arguments, environment, properties.

Each source gives its values by path, with the name under which a person set them. The
values are text still, but for what a JSON object of model options holds.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from oip_host.errors import ConfigurationError, nearest

__all__ = [
    "MODELS",
    "Origin",
    "Values",
    "flag",
    "from_arguments",
    "from_environment",
    "from_properties",
    "nested",
]

PROPERTIES = "oip.properties"
MODELS = "oip_models"
_KRAUSENING = (
    "KRAUSENING_BASE",
    "KRAUSENING_EXTENSIONS",
    "KRAUSENING_OVERRIDE_EXTENSIONS",
)
_SECRET = re.compile(r"secret|password|token|credential|api_?key", re.IGNORECASE)


@dataclass(frozen=True)
class Origin:
    """A value as it was found, and where."""

    value: Any
    source: str
    """`--http_port`, `KSERVE_HTTP_PORT`, `kserve_http_port in oip.properties`, …"""
    secret: bool = False

    @property
    def shown(self) -> str:
        """The value as a person may see it."""
        return "********" if self.secret else repr(self.value)


Values = dict[tuple[str, ...], Origin]
"""Values by path: `("kserve_http_port",)`, `("oip_models", "fraud", "max_queue")`."""


def _origin(
    path: Sequence[str], value: Any, source: str, secret: bool = False
) -> Origin:
    return Origin(value, source, secret or bool(_SECRET.search(path[-1])))


def flag(name: str) -> str:
    """The container argument of an option: `kserve_http_port` is `--http_port`."""
    return "--" + re.sub(r"^(kserve|oip)_", "", name)


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError([message])


def from_arguments(
    arguments: Sequence[str], options: Iterable[str]
) -> tuple[Values, list[str]]:
    """The host's container arguments, and the others as they stood.

    Raises ConfigurationError for an argument without its value, and for JSON that is
    no object.
    """
    parser = _Arguments(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for name in options:
        parser.add_argument(flag(name), dest=name)
    known, rest = parser.parse_known_args(arguments)
    values: Values = {}
    for name, text in vars(known).items():
        values |= _read((name,), text, flag(name))
    others: list[str] = []
    tokens = iter(rest)
    for token in tokens:
        if not token.startswith("--models."):
            others.append(token)
            continue
        key, equals, text = token.partition("=")
        path = (MODELS, *key.split(".")[1:])
        values[path] = _origin(path, text if equals else next(tokens, ""), key)
    return values, others


def from_environment(environ: Mapping[str, str], options: Iterable[str]) -> Values:
    """Environment variables; `OIP_MODELS__FRAUD__MAX_QUEUE` is an option of a model.

    Raises ConfigurationError for JSON in `OIP_MODELS` that is no object.
    """
    values: Values = {}
    for name in options:
        if name.upper() in environ:
            values |= _read((name,), environ[name.upper()], name.upper())
    for name, text in environ.items():
        if name.startswith("OIP_MODELS__"):
            path = (MODELS, *name.lower().split("__")[1:])
            values[path] = _origin(path, text, name)
    return values


def from_properties(options: Iterable[str]) -> Values:
    """Krausening's `oip.properties`, decrypted, later layers over earlier ones.

    Krausening itself reads its variables, so this looks at the process's environment;
    where none of them is set it is not even imported. Raises ConfigurationError with a
    line for each unknown property and each value that does not decrypt.
    """
    if not any(os.environ.get(name) for name in _KRAUSENING):
        return {}
    from krausening.properties import PropertyManager

    try:
        found = PropertyManager.get_instance().get_properties(
            PROPERTIES, force_reload=True
        )
    except OSError as error:
        raise ConfigurationError([f"Krausening's directories: {error}"]) from None
    known = [name for name in options if name != MODELS]
    values: Values = {}
    faults: list[str] = []
    for key in found:
        if key not in known and not key.startswith("models."):
            faults.append(
                f"{PROPERTIES}: unknown property {key!r}{nearest(key, known)}"
            )
            continue
        path = (MODELS, *key.split(".")[1:]) if "." in key else (key,)
        encrypted = str(found.data[key]).startswith("ENC(")
        try:
            value = _decrypted(found, key, encrypted)
        except ConfigurationError as error:
            faults.extend(error.faults)
        else:
            values[path] = _origin(path, value, f"{key} in {PROPERTIES}", encrypted)
    if faults:
        raise ConfigurationError(faults)
    return values


def _decrypted(properties: Any, key: str, encrypted: bool) -> str:
    if encrypted and not os.environ.get("KRAUSENING_PASSWORD"):
        raise ConfigurationError(
            [f"{PROPERTIES}: {key} is encrypted, set KRAUSENING_PASSWORD"]
        )
    try:
        return str(properties.getProperty(key))
    except Exception:  # whatever the cipher makes of a wrong password
        raise ConfigurationError(
            [f"{PROPERTIES}: {key} does not decrypt with KRAUSENING_PASSWORD"]
        ) from None


def _read(path: tuple[str, ...], text: str, source: str) -> Values:
    """One option's value, or the leaves of the JSON object that `oip_models` takes."""
    if path != (MODELS,):
        return {path: _origin(path, text, source)}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError([f"{source}: found {text!r}, expected a JSON object"])
    return _leaves(path, value, source)


def _leaves(path: tuple[str, ...], value: Any, source: str) -> Values:
    if not isinstance(value, dict):
        return {path: _origin(path, value, f"{source} ({'.'.join(path[1:])})")}
    leaves: Values = {}
    for key, inner in value.items():
        leaves |= _leaves((*path, key), inner, source)
    return leaves


def nested(values: Values) -> dict[str, Any]:
    """The values as one object; a value above another's path gives way to it."""
    tree: dict[str, Any] = {}
    for path, origin in sorted(values.items(), key=lambda item: len(item[0])):
        branch = tree
        for part in path[:-1]:
            if not isinstance(branch.get(part), dict):
                branch[part] = {}
            branch = branch[part]
        branch[path[-1]] = origin.value
    return tree
