"""The sources of option values: program, container arguments, environment, properties.

Each source gives its values by path, with the name under which a person set them. The
values are still text, except those of a program and of a JSON object of model options.
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
    "flag",
    "from_arguments",
    "from_environment",
    "from_program",
    "from_properties",
    "nest",
    "property_files",
    "read_property_files",
    "warn_of_missing_files",
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
    """A value as its source sets it, and the name of that source."""

    value: Any
    source: str
    """`--http_port`, `KSERVE_HTTP_PORT`, `kserve_http_port in oip.properties`, …"""
    secret: bool = False

    @property
    def shown(self) -> str:
        """The value as a person may see it: masked if it is a secret."""
        return "********" if self.secret else repr(self.value)


Values = dict[tuple[str, ...], Origin]
"""Values by path: `("kserve_http_port",)`, `("oip_models", "fraud", "max_queue")`."""


def _origin(
    path: Sequence[str], value: Any, source: str, secret: bool = False
) -> Origin:
    """Return a value with its source; the name of its option may make it a secret."""
    return Origin(value, source, secret or bool(_SECRET.search(path[-1])))


def flag(name: str) -> str:
    """Return the container argument of an option: `kserve_http_port`, `--http_port`."""
    return "--" + re.sub(r"^(kserve|oip)_", "", name)


def from_program(
    program: Mapping[str, Any], options: Iterable[str]
) -> tuple[Values, list[str]]:
    """Return the values that a program set in its code, by their arguments' names.

    A path may be a `Path`, and model options may be an object or its JSON. None leaves
    an option to the other sources. A fault is JSON that is not an object.
    """
    values: Values = {}
    faults: list[str] = []
    for name in options:
        key = flag(name).removeprefix("--")
        value = program.get(key)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if value is not None:
            values |= _parse((name,), value, f"{key} in the program", faults)
    return values, faults


def from_arguments(
    arguments: Sequence[str], options: Iterable[str]
) -> tuple[Values, list[str], list[str]]:
    """Return the host's container arguments, the other arguments, and faults.

    A fault is an argument without its value, or JSON that is not an object.
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
            values |= _parse((name,), text, flag(name), faults)
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
    """Return the values of environment variables, and faults.

    `OIP_MODELS__FRAUD__MAX_QUEUE` is an option of a model. A fault is JSON in
    `OIP_MODELS` that is not an object.
    """
    values: Values = {}
    faults: list[str] = []
    for name in options:
        if name.upper() in environ:
            values |= _parse((name,), environ[name.upper()], name.upper(), faults)
    for name, text in environ.items():
        if name.startswith("OIP_MODELS__"):
            path = (MODELS, *name.lower().split("__")[1:])
            values[path] = _origin(path, text, name)
    return values, faults


def from_properties(options: Iterable[str]) -> tuple[Values, list[str]]:
    """Return the decrypted values of Krausening's `oip.properties`, and faults.

    Later layers go before earlier ones. Krausening expands variables of the process's
    environment in the values, so its own variables are looked up there too; if none of
    them is set, it is not even imported. A fault is an unknown property, a value that
    does not decrypt, and a file that cannot be read.
    """
    paths = _paths()
    if not paths:
        return {}, []
    properties, faults = _load_layers(paths)
    known = [name for name in options if name != MODELS]
    values: Values = {}
    for key in properties.data:
        if key not in known and not key.startswith("models."):
            line = f"{PROPERTIES}: unknown property {key!r}{nearest(key, known)}"
            faults.append(line)
        else:
            values |= _property(properties, key, faults)
    return values, faults


def _property(properties: Any, key: str, faults: list[str]) -> Values:
    """Return the value of one property; one that does not decrypt is a fault."""
    path = (MODELS, *key.split(".")[1:]) if "." in key else (key,)
    encrypted = properties.data[key].startswith("ENC(")
    try:
        value = _decrypt(properties, key, encrypted)
    except ConfigurationError as error:
        faults.extend(error.faults)
        return {}
    return {path: _origin(path, value, f"{key} in {PROPERTIES}", encrypted)}


def property_files() -> list[Path]:
    """Return the paths of `oip.properties`, in the order in which they are read."""
    return list(_paths().values())


def read_property_files() -> list[bytes | None]:
    """Return the content of each `oip.properties`; None for an unreadable one."""
    contents: list[bytes | None] = []
    for path in property_files():
        try:
            contents.append(path.read_bytes())
        except OSError:
            contents.append(None)
    return contents


def warn_of_missing_files() -> Iterator[str]:
    """Yield a warning if directories are named, and none of them has the file."""
    paths = property_files()
    if not paths or not all(path.parent.is_dir() for path in paths):
        return  # a missing directory is a fault
    if not any(path.exists() for path in paths):
        yield f"no {PROPERTIES} in {', '.join(str(path.parent) for path in paths)}"


def _paths() -> dict[str, Path]:
    """Return the path of the file for each of Krausening's variables that is set."""
    directories = {name: os.getenv(name) for name in _KRAUSENING}
    return {n: Path(each, PROPERTIES) for n, each in directories.items() if each}


def _load_layers(paths: Mapping[str, Path]) -> tuple[Any, list[str]]:
    """Return the properties in the files, and a fault for each unreadable file.

    They are read as by `PropertyManager.get_properties`, which also replaces encrypted
    values by their clear text, raises for all at the first wrong one, and starts
    threads that watch the directories.
    """
    from krausening.properties.property_manager import EncryptableProperties, Properties

    password = os.environ.get("KRAUSENING_PASSWORD")
    properties = EncryptableProperties(password) if password else Properties()
    faults: list[str] = []
    for name, path in paths.items():
        if not path.parent.is_dir():
            faults.append(f"{name}: found '{path.parent}', expected a directory")
        elif path.exists():
            try:
                with path.open() as file:
                    properties.load(file)
            except (OSError, ValueError) as error:
                faults.append(f"could not read {path}: {error}")
    return properties, faults


def _decrypt(properties: Any, key: str, encrypted: bool) -> str:
    """Return the value of a property; raises ConfigurationError."""
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


def _parse(path: tuple[str, ...], value: Any, source: str, faults: list[str]) -> Values:
    """Return one option's value, or the leaves of the object that `oip_models` takes.

    The fault of another value goes to `faults`, without its text, which may hold
    secrets.
    """
    if path != (MODELS,):
        return {path: _origin(path, value, source)}
    found = "another value"
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            value, found = None, f"invalid JSON ({error})"
    if not isinstance(value, dict):
        faults.append(f"{source}: found {found}, expected a JSON object")
        return {}
    return _leaves(path, value, source)


def _leaves(path: tuple[str, ...], value: Any, source: str) -> Values:
    """Return the leaves of an object; a handler's setting may be an empty object."""
    is_setting = len(path) > 3
    if not isinstance(value, dict) or (is_setting and not value):
        return {path: _origin(path, value, f"{source} ({'.'.join(path[1:])})")}
    leaves: Values = {}
    for key, inner in value.items():
        leaves |= _leaves((*path, key), inner, source)
    return leaves


def nest(values: Values) -> dict[str, Any]:
    """Return the values as one object; a value gives way to one below its path."""
    tree: dict[str, Any] = {}
    for path, origin in sorted(values.items(), key=lambda item: len(item[0])):
        branch = tree
        for part in path[:-1]:
            if not isinstance(branch.get(part), dict):
                branch[part] = {}
            branch = branch[part]
        branch[path[-1]] = origin.value
    return tree
