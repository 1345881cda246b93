"""The options in effect as a container's environment: plain, or from a Secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from oip_host.config.configuration import Configuration
from oip_host.config.model_options import Key, group_by_model
from oip_host.config.settings import KSERVE_VARIABLES, Settings
from oip_host.config.sources import MODELS, Origin, from_environment, nest

__all__ = ["ContainerEnvironment", "container_environment", "escape"]

Path = tuple[str, ...]
Entry = dict[str, Any]
"""The value of a variable, as a container's `env` has it."""


@dataclass(frozen=True)
class ContainerEnvironment:
    """The variables of a container, and what one who deploys it has to know."""

    server: Mapping[str, Entry] = field(default_factory=dict)
    """The variables of the server's options, by name."""
    models: Mapping[str, Entry] = field(default_factory=dict)
    """The variables that select the models and set their options."""
    secrets: tuple[str, ...] = ()
    """The keys that the Secret needs."""
    files: tuple[str, ...] = ()
    """The options that name a file or a directory, with its name."""
    open_settings: tuple[str, ...] = ()
    """The settings of handlers that are printed as they are."""
    faults: tuple[str, ...] = ()


def escape(text: str) -> str:
    """Return text that Kubernetes hands over unchanged; it expands `$(NAME)`."""
    return text.replace("$", "$$")


def container_environment(
    configuration: Configuration,
    models: Sequence[Key],
    secret: str,
    environ: Mapping[str, str] | None = None,
) -> ContainerEnvironment:
    """Return every option that is set, as variables; secrets come from a Secret.

    They are variables and not arguments: a later change of a manifest, a patch or
    KServe's merge of a runtime, can change one variable, but only all arguments.
    """
    environ = os.environ if environ is None else environ
    origins = {
        **{name.upper(): origin for name, origin in _server_options(configuration)},
        **{n: Origin(environ[n], n) for n in KSERVE_VARIABLES if environ.get(n)},
    }
    shown, hidden, faults = _model_options(configuration, models)
    tree = nest(shown).get(MODELS)
    plain = {"OIP_MODELS": _literal(orjson.dumps(tree).decode())} if tree else {}
    selection = origins.pop("OIP_HANDLERS", None)
    if selection is not None:
        plain["OIP_HANDLERS"] = _literal(str(selection.value))
    entries = {name: _entry(name, origin, secret) for name, origin in origins.items()}
    in_secret = [name for name, entry in entries.items() if "valueFrom" in entry]
    return ContainerEnvironment(
        entries,
        plain | {name: _from_secret(name, secret) for name in hidden},
        tuple(sorted(in_secret + hidden)),
        tuple(f"{o.source} ({o.value})" for n, o in origins.items() if _names_file(n)),
        tuple(".".join(path[1:]) for path in shown if "settings" in path[2:-1]),
        tuple(faults),
    )


def _server_options(configuration: Configuration) -> Iterator[tuple[str, Origin]]:
    """Yield each option of the server that is set."""
    for name in Settings.model_fields:
        origin = configuration.origins.get((name,))
        if origin is not None:
            yield name, origin


def _model_options(
    configuration: Configuration, models: Sequence[Key]
) -> tuple[dict[Path, Origin], list[str], list[str]]:
    """Return the options to show, the variables of the secret ones, and faults."""
    shown: dict[Path, Origin] = {}
    hidden: list[str] = []
    faults: list[str] = []
    for path, origin in configuration.origins.items():
        if path[0] != MODELS or len(path) < 2:
            continue
        if not origin.secret:
            shown[path] = origin
            continue
        targets = _find_targets(path, models)
        if not targets:  # no selected model has it
            continue
        name = _variable(path, len(targets[0][1]))
        if _find_targets(_parse_variable(name), models) != targets:
            faults.append(
                f"{origin.source}: a secret that no variable of this name can carry; "
                "expected lower-case letters, digits and single underscores"
            )
        hidden.append(name)
    return shown, hidden, faults


def _find_targets(path: Path, models: Sequence[Key]) -> list[tuple[Key, Path]]:
    """Return the models that a path stands for, each with the option below it."""
    values, _ = group_by_model({path: Origin("", "")}, models)
    return [(key, option) for key, paths in values.items() for option in paths]


def _variable(path: Path, below: int) -> str:
    """Return the variable of an option whose last `below` parts are below its model."""
    model = re.sub(r"[-.@]", "_", ".".join(path[1:-below]))
    return "__".join([MODELS, model, *path[-below:]]).upper()


def _parse_variable(name: str) -> Path:
    """Return the path that the host will read from a variable."""
    values, _ = from_environment({name: ""}, ())
    return next(iter(values))


def _names_file(name: str) -> bool:
    """Return whether a variable names a file or a directory."""
    return name.endswith(("_FILE", "_DIR", "_CACHE"))


def _entry(name: str, origin: Origin, secret: str) -> Entry:
    """Return the value of an option, or the reference to it in the Secret."""
    # the name of a file is no secret, though that of its option has `token` in it
    if origin.secret and not _names_file(name):
        return _from_secret(name, secret)
    return _literal(str(origin.value))


def _literal(text: str) -> Entry:
    """Return a value that is printed as it is."""
    return {"value": escape(text)}


def _from_secret(name: str, secret: str) -> Entry:
    """Return a reference to a key of the Secret."""
    return {"valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}
