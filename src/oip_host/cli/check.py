"""The command `oip-host check`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from oip_host.cli.output import (
    exit_on_faults,
    model_rows,
    print_json,
    print_models,
    print_table,
)
from oip_host.host.assemble import Launch
from oip_host.telemetry import crash_report

if TYPE_CHECKING:
    from oip_host.host.host import Host

__all__ = ["check"]

CHECK_ENDS_S = 5.0
"""Seconds for the unloads of `check`, if its loads have a limit."""


def check(
    context: typer.Context,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON for programs.")
    ] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout_s",
            min=0.1,
            help="Time for every model to load, in seconds; unset: unlimited.",
        ),
    ] = None,
) -> None:
    """Load the selected models as serve would, show settings and faults, and exit.

    Exits with 2 if the configuration is wrong, with 1 if a model that is not optional
    fails to load, otherwise with 0.
    """
    crash_report.enable()
    launch: Launch = context.obj.with_kserve_arguments(context.args)
    longest_s = timeout_s and timeout_s + 2 * CHECK_ENDS_S
    with crash_report.exit_after(longest_s), exit_on_faults():
        from oip_host.host.build import build_host
        from oip_host.model_server import AissembleOIPKServe

        host = build_host(launch, model_class=AissembleOIPKServe)
    with crash_report.exit_after(longest_s):
        is_well = asyncio.run(_load_and_show(host, json, timeout_s))
    if not is_well:
        raise typer.Exit(1)


async def _load_and_show(host: Host, json: bool, timeout_s: float | None) -> bool:
    """Load, show and unload the models; return whether the required ones loaded."""
    await host.load_within(timeout_s)
    effective = [
        {"option": name, "value": value, "source": source}
        for name, value, source in host.list_effective()
    ]
    if json:
        print_json({"settings": effective, "models": model_rows(host)})
    else:
        print_table("Settings", effective)
        print_models(host)
    is_well = not any(model.reason and not model.optional for model in host.registry)
    unloading = asyncio.ensure_future(host.unload())
    await asyncio.wait([unloading], timeout=timeout_s and CHECK_ENDS_S)
    return is_well
