"""The command line: one reading of the options, and the commands that use it."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from oip_host.cli.check import check
from oip_host.cli.help import ManifestCommand, ServeCommand
from oip_host.cli.list import list_handlers
from oip_host.cli.manifest import manifest
from oip_host.cli.serve import serve
from oip_host.hookspecs import hookimpl
from oip_host.host.assemble import assemble
from oip_host.plugins.discovery import call_each

__all__ = ["main"]

# every option of the host is an argument, and what is neither goes to KServe
_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
_COMMANDS = ("serve", "list", "check", "manifest")
"""The commands that take the options of the host."""


def main() -> None:
    """Run the command line, with the commands of every host extension."""
    arguments = sys.argv[1:]
    launch = assemble(arguments, [Commands()])
    app = typer.Typer(
        name="oip-host",
        help="Serve every installed model handler over the Open Inference Protocol.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_global_options)
    call_each(launch.plugins().hook.oip_commands, app=app)
    # the host's options are read by now; a command of an extension has its own
    others = list(launch.configuration.kserve_arguments)
    is_own = bool(others) and others[0] in _COMMANDS
    app(args=others if is_own else arguments, obj=launch)


class Commands:
    """The host's own commands, added through the hook that extensions use."""

    @hookimpl
    def oip_commands(self, app: typer.Typer) -> None:
        """Add serve, list, check and manifest."""
        app.command(cls=ServeCommand, context_settings=_ARGUMENTS)(serve)
        app.command("list", context_settings=_ARGUMENTS)(list_handlers)
        app.command(context_settings=_ARGUMENTS)(check)
        app.command(cls=ManifestCommand, context_settings=_ARGUMENTS)(manifest)


def _print_versions(is_wanted: bool) -> None:
    """Print the versions of host, contract, KServe and Python, and exit."""
    if is_wanted:
        for distribution in ("oip-host", "oip-handler", "kserve"):
            print(distribution, version(distribution))
        print("Python", platform.python_version())
        raise typer.Exit


def _global_options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of host, contract, KServe and Python, and exit.",
        ),
    ] = False,
) -> None:
    """Take the options that need no command."""
