"""The options in effect: read from every source at once, with the source of each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from oip_host.config.settings import KSERVE_VARIABLES, OPTIONS, WORKER, Settings
from oip_host.config.sources import (
    Values,
    from_arguments,
    from_environment,
    from_program,
    from_properties,
    nest,
    read_property_files,
    warn_of_missing_files,
)
from oip_host.config.validation import validate
from oip_host.errors import nearest

__all__ = ["Configuration", "read"]

_PREFIXES = ("OIP_", "KSERVE_", "AUTH_")
"""Prefixes of the variables that may be meant for the host."""


@dataclass(frozen=True)
class Configuration:
    """The options in effect, the source of each, and the arguments left for KServe."""

    settings: Settings = field(default_factory=Settings)
    origins: Values = field(default_factory=dict)
    kserve_arguments: tuple[str, ...] = ()
    """Container arguments that are not the host's, for KServe's own parser."""
    warnings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    """All container arguments, to read the configuration again."""
    program: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The options that a program set in its code, to read the configuration again."""
    property_contents: Sequence[bytes | None] = field(default=(), repr=False)
    """The contents of each `oip.properties` as it was read, to see when it changes."""

    def list_effective(self) -> Iterator[tuple[str, str, str]]:
        """Yield each server option as (name, value, source), secrets masked."""
        for name in Settings.model_fields:
            origin = self.origins.get((name,))
            value = getattr(self.settings, name)
            shown = origin.shown if origin and origin.secret else str(value)
            yield name, shown, origin.source if origin else "default"

    def read_again(self) -> tuple[Configuration, list[str]]:
        """Return the options as their sources set them now, and a line per fault."""
        return read(self.arguments, program=self.program)


def read(
    arguments: Sequence[str],
    environ: Mapping[str, str] | None = None,
    program: Mapping[str, Any] | None = None,
) -> tuple[Configuration, list[str]]:
    """Return the options that program, arguments, environment and properties set.

    With them comes a line for each unknown key and wrong value; such an option has its
    default, so that the faults of later steps can be reported at the same time.
    """
    environ = os.environ if environ is None else environ
    program = {} if program is None else program
    property_contents = read_property_files()
    values, faults = from_program(program, OPTIONS)
    given, others, wrong = from_arguments(arguments, OPTIONS)
    for layer, wrong_here in (
        (given, wrong),
        from_environment(environ, OPTIONS),
        from_properties(OPTIONS),
    ):
        # of names that two layers spell differently the last one goes first, later
        below = {path: layer[path] for path in layer if path not in values}
        values = {**below, **values}
        faults += wrong_here
    settings, wrong = validate(Settings, values)
    if settings is None:
        settings = Settings(**_drop_invalid(nest(values)))
    warnings = (*_warn_of_misspelt(environ), *warn_of_missing_files())
    configuration = Configuration(
        settings,
        values,
        tuple(others),
        warnings,
        tuple(arguments),
        program,
        property_contents,
    )
    return configuration, [*faults, *wrong]


def _drop_invalid(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the options that validate."""
    try:
        Settings(**tree)
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors()}
        return {name: value for name, value in tree.items() if name not in wrong}
    return tree


def _warn_of_misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable that looks like a misspelt option.

    It is no fault: Kubernetes itself sets such variables for a service named oip-host.
    """
    known = [name.upper() for name in OPTIONS]
    others = (*known, *KSERVE_VARIABLES, WORKER)
    for name in environ:
        if name.startswith(_PREFIXES) and name not in others:
            close = nearest(name, known)
            if close and not name.startswith("OIP_MODELS__"):
                yield f"{name}: no such option{close}"
