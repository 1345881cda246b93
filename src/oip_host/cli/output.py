"""The output of the commands, for people and for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from oip_host.errors import ConfigurationError

if TYPE_CHECKING:
    from oip_host.host.host import Host
    from oip_host.host.planning import PlannedModel, SkippedHandler

__all__ = [
    "exit_on_faults",
    "model_rows",
    "print_faults",
    "print_json",
    "print_models",
    "print_table",
]


@contextmanager
def exit_on_faults() -> Iterator[None]:
    """Print the faults of a wrong configuration, one line each, and exit with 2."""
    try:
        yield
    except ConfigurationError as error:
        print_faults(error.faults)
        raise typer.Exit(2) from None


def print_faults(faults: Sequence[str]) -> None:
    """Print each fault as a line of the standard error stream."""
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)


def print_json(document: Any) -> None:
    """Print a document for programs."""
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def print_models(host: Host) -> None:
    """Print the models of a host, and the installed handlers that it does not serve."""
    skipped = [_skipped_row(each) for each in host.skipped]
    print_table("Models", [*model_rows(host), *skipped])


def model_rows(host: Host) -> list[dict[str, Any]]:
    """Return the state of each model of a host."""
    return [_model_row(each) for each in host.planned]


def _model_row(planned: PlannedModel) -> dict[str, Any]:
    """Return a model's name, its handler and its state."""
    model, choice = planned.model, planned.choice
    return {
        "model": model.name,
        "version": model.version,
        "handler": choice.item.handler if choice else type(model).__name__,
        "distribution": choice.entry.origin if choice else "",
        "state": model.state.value,
        "load_s": round(model.load_s, 3) if model.load_s is not None else None,
        "reason": model.reason,
    }


def _skipped_row(skipped: SkippedHandler) -> dict[str, Any]:
    """Return the row of a handler that is not served, with what it needs."""
    return {
        "model": None,
        "version": None,
        "handler": skipped.handler,
        "distribution": skipped.choice.entry.origin,
        "state": "not served",
        "load_s": None,
        "reason": skipped.reason,
    }


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows with the same keys as a table."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in rows[0] if rows else ["none"]:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_format_cell(value) for value in row.values()))
    console = Console()
    if not console.is_terminal:  # a log or a pipe has no edge at which to fold a line
        console = Console(width=240)
    console.print(table)


def _format_cell(value: Any) -> str:
    """Return the text of a value in a table."""
    if isinstance(value, list):
        return ", ".join(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
