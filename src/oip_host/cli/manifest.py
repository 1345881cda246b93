"""The command `oip-host manifest`."""

from __future__ import annotations

import sys

import typer

from oip_host.cli.output import exit_on_faults
from oip_host.host.assemble import Launch

__all__ = ["manifest"]


def manifest(context: typer.Context) -> None:
    """Print the Kubernetes manifest of what serve would serve; imports no handler.

    Takes the options of serve, and puts those that are set into the manifest. The
    manifest goes to the standard output, notices of what else to do to the standard
    error stream.
    """
    from oip_host.manifests import documents as manifests

    launch: Launch = context.obj.with_kserve_arguments(context.args)
    with exit_on_faults():
        selected = launch.select()
        keys = [choice.key for choice in selected.choices]
        faults = [*launch.faults, *selected.faults]
        pod, warnings = manifests.configure(launch.configuration, keys, faults)
    for line in (*warnings, *manifests.notices(pod)):
        print(f"notice: {line}", file=sys.stderr)
    print(manifests.dump(manifests.documents(pod)), end="")
