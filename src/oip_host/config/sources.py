"""Where option values are found: container arguments, environment, properties.

Each source gives its values by path, with the name under which a person set them. The
values are text still, but for what a JSON object of model options holds.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from oip_host.errors import ConfigurationError, nearest

__all__ = [
    "MODELS",
    "Origin",
    "Values",
    "absent",
    "flag",
    "from_arguments",
    "from_environment",
    "from_properties",
    "nested",
    "property_files",
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


def from_arguments(
    arguments: Sequence[str], options: Iterable[str]
) -> tuple[Values, list[str], list[str]]:
    """The host's container arguments, the others as they stood, and faults.

    A fault is an argument without its value, or JSON that is no object.
    """
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for name in options:
        parser.add_argument(flag(name), dest=name, nargs="?")
    known, rest = parser.parse_known_args(arguments)
    values: Values = {}
    faults: list[str] = []
    for name, text in vars(known).items():
        if text is None:
            faults.append(f"{flag(name)}: found no value, expected {flag(name)}=…")
        else:
            values |= _read((name,), text, flag(name), faults)
    others: list[str] = []
    tokens = iter(rest)
    for token in tokens:
        if not token.startswith("--models."):
            others.append(token)
            continue
        key, equals, text = token.partition("=")
        path = (MODELS, *key.split(".")[1:])
        values[path] = _origin(path, text if equals else next(tokens, ""), key)
    return values, others, faults


def from_environment(
    environ: Mapping[str, str], options: Iterable[str]
) -> tuple[Values, list[str]]:
    """Environment variables; `OIP_MODELS__FRAUD__MAX_QUEUE` is an option of a model.

    A fault is JSON in `OIP_MODELS` that is no object.
    """
    values: Values = {}
    faults: list[str] = []
    for name in options:
        if name.upper() in environ:
            values |= _read((name,), environ[name.upper()], name.upper(), faults)
    for name, text in environ.items():
        if name.startswith("OIP_MODELS__"):
            path = (MODELS, *name.lower().split("__")[1:])
            values[path] = _origin(path, text, name)
    return values, faults


def from_properties(options: Iterable[str]) -> tuple[Values, list[str]]:
    """Krausening's `oip.properties`, decrypted, later layers over earlier ones.

    Krausening expands variables of the process's environment in the values, so its own
    variables are looked up there too; where none of them is set it is not even
    imported. A fault is an unknown property, a value that does not decrypt, and a file
    that cannot be read.
    """
    paths = _paths()
    if not paths:
        return {}, []
    found, faults = _layered(paths)
    known = [name for name in options if name != MODELS]
    values: Values = {}
    for key, raw in found.data.items():
        if key not in known and not key.startswith("models."):
            faults.append(
                f"{PROPERTIES}: unknown property {key!r}{nearest(key, known)}"
            )
            continue
        path = (MODELS, *key.split(".")[1:]) if "." in key else (key,)
        encrypted = raw.startswith("ENC(")
        try:
            value = _decrypted(found, key, encrypted)
        except ConfigurationError as error:
            faults.extend(error.faults)
        else:
            values[path] = _origin(path, value, f"{key} in {PROPERTIES}", encrypted)
    return values, faults


def property_files() -> list[Path]:
    """Where `oip.properties` is looked for, the later ones over the earlier ones."""
    return list(_paths().values())


def absent() -> Iterator[str]:
    """A warning where directories are named, and none of them has the file."""
    paths = property_files()
    if not paths or not all(path.parent.is_dir() for path in paths):
        return  # which is a fault
    if not any(path.exists() for path in paths):
        yield f"no {PROPERTIES} in {', '.join(str(path.parent) for path in paths)}"


def _paths() -> dict[str, Path]:
    """The file of each of Krausening's variables that is set."""
    set_ = {name: os.environ[name] for name in _KRAUSENING if os.getenv(name)}
    return {name: Path(directory, PROPERTIES) for name, directory in set_.items()}


def _layered(paths: Mapping[str, Path]) -> tuple[Any, list[str]]:
    """The properties in the files, and the faults of those that cannot be read.

    As `PropertyManager.get_properties` reads them; but that one replaces an encrypted
    value by its clear text, raises for all at the first wrong one, and starts threads
    that watch the directories.
    """
    from krausening.properties.property_manager import EncryptableProperties, Properties

    password = os.environ.get("KRAUSENING_PASSWORD")
    found = EncryptableProperties(password) if password else Properties()
    faults: list[str] = []
    for name, path in paths.items():
        if not path.parent.is_dir():
            faults.append(f"{name}: found '{path.parent}', expected a directory")
        elif path.exists():
            try:
                with path.open() as file:
                    found.load(file)
            except (OSError, ValueError) as error:
                faults.append(f"{path} cannot be read: {error}")
    return found, faults


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


def _read(path: tuple[str, ...], text: str, source: str, faults: list[str]) -> Values:
    """One option's value, or the leaves of the JSON object that `oip_models` takes.

    The fault of one that is no object goes to `faults`, without the text: that may hold
    secrets.
    """
    if path != (MODELS,):
        return {path: _origin(path, text, source)}
    found = "another value"
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        value, found = None, f"no JSON ({error})"
    if not isinstance(value, dict):
        faults.append(f"{source}: found {found}, expected a JSON object")
        return {}
    return _leaves(path, value, source)


def _leaves(path: tuple[str, ...], value: Any, source: str) -> Values:
    setting = len(path) > 3  # whose value may be an empty object
    if not isinstance(value, dict) or (setting and not value):
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
