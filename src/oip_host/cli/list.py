"""The command `oip-host list`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from oip_host.cli.output import print_faults, print_json, print_table
from oip_host.hookspecs import HandlerEntry
from oip_host.host.assemble import Launch
from oip_host.plugins.choice import Choice

__all__ = ["list_handlers"]


def list_handlers(
    context: typer.Context,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON for programs.")
    ] = False,
) -> None:
    """Show the installed handlers and which are selected, without importing them."""
    launch: Launch = context.obj
    selected = launch.select()
    faults = [*launch.faults, *selected.faults]
    chosen = [choice.entry for choice in selected.choices]
    unpackaged = [entry for entry in chosen if entry not in selected.installed]
    entries = [*unpackaged, *selected.installed]
    rows = [_row(entry, selected.choices) for entry in entries]
    if json:
        print_json({"handlers": rows, "faults": faults})
    else:
        print_table("Handlers", rows)
        print_faults(faults)
    if faults:
        raise typer.Exit(2)


def _row(entry: HandlerEntry, choices: Sequence[Choice]) -> dict[str, Any]:
    """Return what is known of a handler, and the models it is selected for."""
    selected = [choice for choice in choices if choice.entry == entry]
    is_named = any(choice.named for choice in selected)
    why = "named" if is_named else "all are selected"
    return {
        "handler": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "object": entry.target,
        "selected": bool(selected),
        "models": [str(choice.item) for choice in selected],
        "why": why if selected else "not in OIP_HANDLERS, or excluded",
    }
