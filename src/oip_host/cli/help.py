"""The options of the host in `--help`, grouped in panels by subject.

They are shown only: the one reader in `config` parses them before there is a command.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from inspect import Parameter, Signature
from typing import Any

import typer
from typer.core import TyperCommand

from oip_host.config.settings import (
    MODELS_DESCRIPTION,
    OPTIONS,
    Panel,
    Settings,
    panel_of,
)
from oip_host.config.sources import MODELS, flag
from oip_host.manifests.target import Target

__all__ = ["ManifestCommand", "ServeCommand"]


class ServeCommand(TyperCommand):
    """A command whose help has a panel for each subject of the host's options."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help with the options of the host beside the command's own."""
        _format_with(self, _host_options(), ctx, formatter)


class ManifestCommand(TyperCommand):
    """A command whose help has the options of the manifest in a panel."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help with the options of the manifest."""
        _format_with(self, _manifest_options(), ctx, formatter)


def _format_with(
    command: TyperCommand, options: Iterable[Parameter], ctx: Any, formatter: Any
) -> None:
    """Write the help of a command as if it parsed these options itself."""
    shown = copy(command)
    shown.params = [*command.params, *_parse_by_typer(options)]
    TyperCommand.format_help(shown, ctx, formatter)


def _parse_by_typer(options: Iterable[Parameter]) -> list[Any]:
    """Return the parameters that typer makes of a function with these options."""

    def function(**_: Any) -> None:
        """Do nothing."""

    signature = Signature(list(options))
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = dict.fromkeys(signature.parameters, str)
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return typer.main.get_command(app).params


def _host_options() -> Iterator[Parameter]:
    """Yield the options of the host, panel by panel."""
    panels = list(Panel)
    for name in sorted(OPTIONS, key=lambda name: panels.index(panel_of(name))):
        description, default = MODELS_DESCRIPTION, None
        if name != MODELS:
            field = Settings.model_fields[name]
            description, default = field.description or "", field.get_default()
        yield _option(name, description, default, panel_of(name).value, name.upper())


def _manifest_options() -> Iterator[Parameter]:
    """Yield the options of the manifest."""
    for name, field in Target.model_fields.items():
        default = field.get_default(call_default_factory=True)
        yield _option(name, field.description or "", default, "Manifest")


def _option(
    name: str, description: str, default: Any, panel: str, variable: str | None = None
) -> Parameter:
    """Return an option to show, with its default and its environment variable."""
    option = typer.Option(
        None if default is None else str(default),
        flag(name),
        help=description,
        show_default=default not in (None, ""),
        envvar=variable,
        metavar="VALUE",
        rich_help_panel=panel,
    )
    return Parameter(name, Parameter.KEYWORD_ONLY, default=option, annotation=str)
