"""The command line; the only module that prints for people."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import pluggy
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from oip_host.config import selection, settings
from oip_host.config.sources import flag
from oip_host.errors import ConfigurationError
from oip_host.hookspecs import HandlerEntry, hookimpl
from oip_host.manifests.target import Target
from oip_host.plugins import discovery as plugins
from oip_host.plugins import wheels
from oip_host.plugins.discovery import Choice
from oip_host.telemetry import crash_report as crash
from oip_host.telemetry import logs
from oip_host.workers import supervisor as workers
from oip_host.workers.identity import Place, entered

if TYPE_CHECKING:
    from oip_host.host.host import Host
    from oip_host.host.planning import Planned

__all__ = ["main"]

# every option of the host is an argument, and what is neither goes to KServe
_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
CHECK_ENDS_S = 5.0
"""Seconds for the unloads of `check`, where its loads had a limit."""
Within = Annotated[
    float | None,
    typer.Option(
        "--timeout_s", min=0.1, help="Seconds within which every model has to load."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def main() -> None:
    """Run the command line, with the commands of every host extension."""
    app = typer.Typer(
        name="oip-host",
        help="Serve every installed model handler over the Open Inference Protocol.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    place = entered()
    configuration, _ = settings.read(sys.argv[1:])
    faults = wheels.add(configuration.settings, place.plugins if place else None)
    manager = plugins.manager([Commands()])
    plugins.call_each(manager.hook.oip_commands, app=app)
    app(obj=Begun(manager, place, tuple(faults)))


@dataclass(frozen=True)
class Begun:
    """What is known before there is a command; it is the `obj` of each."""

    plugins: pluggy.PluginManager
    place: Place | None
    faults: tuple[str, ...]
    """What is wrong with the plugin directory."""

    def manager(self, arguments: Sequence[str]) -> pluggy.PluginManager:
        """The manager; raises ConfigurationError where the plugin directory is wrong.

        Models that are selected from it would only be further faults.
        """
        if self.faults:
            raise ConfigurationError([*settings.read(arguments)[1], *self.faults])
        return self.plugins


class Commands:
    """The host's own commands, added through the hook that extensions use."""

    @hookimpl
    def oip_commands(self, app: typer.Typer) -> None:
        """Add serve, list, check and manifest."""
        app.command(context_settings=_ARGUMENTS, epilog=_options())(serve)
        app.command("list", context_settings=_ARGUMENTS)(list_handlers)
        app.command(context_settings=_ARGUMENTS)(check)
        app.command(context_settings=_ARGUMENTS, epilog=_of_manifest())(manifest)


def _options() -> str:
    lines = [
        f"{flag(name)}: {field.description}. [{name.upper()}; "
        f"default: {field.get_default(call_default_factory=True)}]"
        for name, field in settings.Settings.model_fields.items()
    ]
    return "\n\n".join(["Options, by argument and environment variable:", *lines])


def _of_manifest() -> str:
    lines = [
        f"{flag(name)}: {field.description}. "
        f"[default: {field.get_default(call_default_factory=True)}]"
        for name, field in Target.model_fields.items()
    ]
    return "\n\n".join(["Its own options, beside those of serve:", *lines])


def serve(context: typer.Context) -> None:
    """Load the selected models and serve them by REST and gRPC."""
    crash.report()
    place = context.obj.place
    if place is None and not context.obj.faults:
        _supervise(context.args)
    # imports make objects and no garbage: looking for it takes a tenth of the start
    gc.set_threshold(1_000_000, 20, 20)
    with _faults():
        from oip_host.host.host import Host
        from oip_host.model_server import AissembleOIPKServe

        manager = context.obj.manager(context.args)
        host = Host.configured(context.args, manager, place, AissembleOIPKServe)
        host.run(on_loaded=_announce if place is None or place.is_first else None)


def _supervise(arguments: Sequence[str]) -> None:
    """Serve with several workers and exit, where the options ask for more than one.

    Faults of the configuration are left to the process that finds all of them.
    """
    configuration, faults = settings.read(arguments)
    if configuration.settings.kserve_workers == 1 or faults:
        return
    logs.to_stderr(configuration.settings)
    with _faults():
        raise typer.Exit(workers.supervise(configuration))


def list_handlers(context: typer.Context, json: Json = False) -> None:
    """Show the installed handlers and which are selected; imports none of them."""
    configuration, faults = settings.read(context.args)
    entries = plugins.offered(context.obj.plugins)
    wanted, malformed = selection.parse(configuration.settings.oip_handlers)
    choices, wrong = plugins.choose(wanted, entries)
    faults += context.obj.faults or [*malformed, *wrong]
    listed = [c.entry for c in choices if c.entry not in entries] + entries
    rows = [_listed(entry, choices) for entry in listed]
    if json:
        _print_json({"handlers": rows, "faults": faults})
    else:
        _print_table("Handlers", rows)
    _refuse(faults if not json else [])
    if faults:
        raise typer.Exit(2)


def _listed(entry: HandlerEntry, choices: list[Choice]) -> dict[str, Any]:
    models = [
        f"{c.item.model}@{c.item.version}{'?' if c.item.optional else ''}"
        for c in choices
        if c.entry == entry
    ]
    named = any(c.named for c in choices if c.entry == entry)
    why = "named" if named else "all are selected"
    return {
        "handler": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "object": entry.target,
        "selected": bool(models),
        "models": models,
        "why": why if models else "not in OIP_HANDLERS, or excluded",
    }


def check(context: typer.Context, json: Json = False, timeout_s: Within = None) -> None:
    """Load the selected models as serve would, show settings and faults, and exit.

    Exits with 2 where the configuration is wrong, with 1 where a model that is not
    optional does not load, otherwise with 0.
    """
    crash.report()
    longest_s = timeout_s and timeout_s + 2 * CHECK_ENDS_S
    with crash.limit(longest_s), _faults():
        from oip_host.host.host import Host
        from oip_host.model_server import AissembleOIPKServe

        manager = context.obj.manager(context.args)
        host = Host.configured(context.args, manager, None, AissembleOIPKServe)
    with crash.limit(longest_s):
        well = asyncio.run(_checked(host, json, timeout_s))
    if not well:
        raise typer.Exit(1)


async def _checked(host: Host, json: bool, timeout_s: float | None) -> bool:
    """Load the models, show them, and unload them; tells whether they loaded."""
    await host.load_within(timeout_s)
    effective = [
        {"option": name, "value": value, "source": source}
        for name, value, source in host.effective()
    ]
    models = [_state(planned) for planned in host.planned]
    if json:
        _print_json({"settings": effective, "models": models})
    else:
        _print_table("Settings", effective)
        _print_table("Models", models)
    well = not any(m.reason and not m.optional for m in host.registry)
    unloading = asyncio.ensure_future(host.unload())
    await asyncio.wait([unloading], timeout=timeout_s and CHECK_ENDS_S)
    return well


def _state(planned: Planned) -> dict[str, Any]:
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


def manifest(context: typer.Context) -> None:
    """Print the Kubernetes manifest of what serve would serve; imports no handler.

    Takes the options of serve, and puts what is set of them into the manifest. That
    goes to the standard output; what else has to be done, to standard error.
    """
    from oip_host.manifests import documents as manifests

    with _faults():
        manager = context.obj.manager(context.args)
        pod, warnings = manifests.configured(context.args, manager)
    for line in (*warnings, *manifests.notices(pod)):
        print(f"notice: {line}", file=sys.stderr)
    print(manifests.text(manifests.documents(pod)), end="")


def _announce(host: Host) -> None:
    """Show the models and a request to try, once all loads have ended.

    Not where lines are JSON: there a program reads them.
    """
    if host.configuration.settings.oip_log_format == logs.JSON:
        return
    _print_table("Models", [_state(planned) for planned in host.planned])
    example = next(filter(None, map(_example, host.registry)), None)
    if example:
        name, body = example
        url = f"{host.server.url}/v2/models/{name}/infer"
        print(f"Try: curl -s {url} -d '{body}'")
    sys.stdout.flush()


def _example(model: Any) -> tuple[str, str] | None:
    """A model's name and a request that fits its metadata, with ones for dimensions."""
    if not model.ready or not model.get_input_types():
        return None
    inputs = []
    for tensor in model.get_input_types():
        shape = [1 if size < 0 else size for size in tensor["shape"]]
        value: Any = {"BYTES": "text", "BOOL": True}.get(tensor["datatype"], 1)
        count = 1
        for size in shape:
            count *= size
        if count > 64:
            return None
        inputs.append({**tensor, "shape": shape, "data": [value] * count})
    return model.name, orjson.dumps({"inputs": inputs}).decode()


@contextmanager
def _faults() -> Iterator[None]:
    """Print a configuration's faults, one line each, and exit with 2."""
    try:
        yield
    except ConfigurationError as error:
        _refuse(error.faults)
        raise typer.Exit(2) from None


def _refuse(faults: Sequence[str]) -> None:
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)


def _print_json(document: Any) -> None:
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in rows[0] if rows else ["none"]:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console()
    if not console.is_terminal:  # a log or a pipe has no edge at which to fold a line
        console = Console(width=240)
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
