"""How the options in effect get into a container: as variables, or from a Secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from oip_host.config import model_options as options
from oip_host.config.model_options import Key
from oip_host.config.settings import KSERVES, Configuration, Settings
from oip_host.config.sources import MODELS, Origin, from_environment, nested

__all__ = ["Carried", "carried", "escaped"]

Path = tuple[str, ...]
Entry = dict[str, Any]
"""A variable as a container's `env` has it."""


@dataclass(frozen=True)
class Carried:
    """What a container is given, and what whoever deploys it has to know."""

    server: Mapping[str, Entry] = field(default_factory=dict)
    """The variables of the server's options, by name."""
    models: Mapping[str, Entry] = field(default_factory=dict)
    """The variables that say which models are served, and with which options."""
    secrets: tuple[str, ...] = ()
    """The keys that the Secret needs."""
    files: tuple[str, ...] = ()
    """The options that name a file or a directory, with its name."""
    open_settings: tuple[str, ...] = ()
    """The settings of handlers that are spelled out."""
    faults: tuple[str, ...] = ()


def escaped(text: str) -> str:
    """Text that Kubernetes hands over as it is; it expands `$(NAME)`."""
    return text.replace("$", "$$")


def carried(
    configuration: Configuration,
    models: Sequence[Key],
    secret: str,
    environ: Mapping[str, str] | None = None,
) -> Carried:
    """Every option that somebody set, in variables; what is secret from a Secret.

    Variables and not arguments: whoever changes a manifest later, a patch or KServe's
    merge of a runtime, can change one variable, but only all arguments.
    """
    environ = os.environ if environ is None else environ
    found = {
        **{name.upper(): origin for name, origin in _of_server(configuration)},
        **{n: Origin(environ[n], n) for n in KSERVES if environ.get(n)},
    }
    shown, hidden, faults = _of_models(configuration, models)
    tree = nested(shown).get(MODELS)
    plain = {"OIP_MODELS": _plain(orjson.dumps(tree).decode())} if tree else {}
    selection = found.pop("OIP_HANDLERS", None)
    if selection is not None:
        plain["OIP_HANDLERS"] = _plain(str(selection.value))
    entries = {name: _entry(name, origin, secret) for name, origin in found.items()}
    return Carried(
        entries,
        plain | {name: _referred(name, secret) for name in hidden},
        tuple(sorted([n for n, e in entries.items() if "valueFrom" in e] + hidden)),
        tuple(f"{o.source} ({o.value})" for n, o in found.items() if _names_file(n)),
        tuple(".".join(path[1:]) for path in shown if "settings" in path[2:-1]),
        tuple(faults),
    )


def _of_server(configuration: Configuration) -> Iterator[tuple[str, Origin]]:
    for name in Settings.model_fields:
        origin = configuration.origins.get((name,))
        if name != MODELS and origin is not None:
            yield name, origin


def _of_models(
    configuration: Configuration, models: Sequence[Key]
) -> tuple[dict[Path, Origin], list[str], list[str]]:
    """The options that are shown, the variables of those that are not, and faults."""
    shown: dict[Path, Origin] = {}
    hidden: list[str] = []
    faults: list[str] = []
    for path, origin in configuration.origins.items():
        if path[0] != MODELS or len(path) < 2:
            continue
        if not origin.secret:
            shown[path] = origin
            continue
        meant = _meant(path, models)
        if not meant:  # no selected model has it
            continue
        name = _variable(path, len(meant[0][1]))
        if _meant(_read_back(name), models) != meant:
            faults.append(
                f"{origin.source}: a secret, which no variable can carry under this "
                "name; expected lower-case letters, digits and single underscores"
            )
        hidden.append(name)
    return shown, hidden, faults


def _meant(path: Path, models: Sequence[Key]) -> list[tuple[Key, Path]]:
    """The models that a path stands for, each with the option below it."""
    values, _ = options.by_model({path: Origin("", "")}, models)
    return [(key, option) for key, found in values.items() for option in found]


def _variable(path: Path, below: int) -> str:
    """The variable of an option, whose last so many parts are below its model."""
    model = re.sub(r"[-.@]", "_", ".".join(path[1:-below]))
    return "__".join([MODELS, model, *path[-below:]]).upper()


def _read_back(name: str) -> Path:
    """The path that the host will read from a variable."""
    values, _ = from_environment({name: ""}, ())
    return next(iter(values))


def _names_file(name: str) -> bool:
    return name.endswith(("_FILE", "_DIR", "_CACHE"))


def _entry(name: str, origin: Origin, secret: str) -> Entry:
    # the name of a file is no secret, though that of its option has `token` in it
    if origin.secret and not _names_file(name):
        return _referred(name, secret)
    return _plain(str(origin.value))


def _plain(text: str) -> Entry:
    return {"value": escaped(text)}


def _referred(name: str, secret: str) -> Entry:
    return {"valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}
