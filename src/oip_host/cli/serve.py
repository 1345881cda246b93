"""The command `oip-host serve`."""

from __future__ import annotations

import gc
import sys
from math import prod
from typing import TYPE_CHECKING, Any

import orjson
import typer

from oip_host.cli.output import exit_on_faults, print_models
from oip_host.host.assemble import Launch
from oip_host.telemetry import crash_report, logs
from oip_host.workers import supervisor

if TYPE_CHECKING:
    from oip_host.host.host import Host

__all__ = ["serve"]

LARGEST_EXAMPLE = 64
"""Elements of the largest tensor in a request to try."""


def serve(context: typer.Context) -> None:
    """Load the selected models and serve them by REST and gRPC."""
    crash_report.enable()
    launch: Launch = context.obj.with_kserve_arguments(context.args)
    with exit_on_faults():
        if _is_supervisor(launch):
            logs.log_to_stderr(launch.configuration.settings)
            raise typer.Exit(supervisor.supervise(launch.configuration))
        # imports create objects and no garbage: collecting takes a tenth of the start
        gc.set_threshold(1_000_000, 20, 20)
        from oip_host.host.build import build_host
        from oip_host.model_server import AissembleOIPKServe

        host = build_host(launch, model_class=AissembleOIPKServe)
        is_spokesman = launch.worker is None or launch.worker.is_first
        host.run(on_loaded=_announce if is_spokesman else None)


def _is_supervisor(launch: Launch) -> bool:
    """Return whether this process only starts the workers that serve.

    Faults are left to a process that serves: it finds all of them.
    """
    has_faults = launch.faults or launch.plugin_dir_faults
    workers = launch.configuration.settings.kserve_workers
    return launch.worker is None and workers > 1 and not has_faults


def _announce(host: Host) -> None:
    """Print the models and a request to try, unless a program reads the lines."""
    if host.configuration.settings.oip_log_format == logs.JSON:
        return
    print_models(host)
    example = next(filter(None, map(_example_request, host.registry)), None)
    if example:
        name, body = example
        url = f"{host.server.url}/v2/models/{name}/infer"
        print(f"Try: curl -s {url} -d '{body}'")
    sys.stdout.flush()


def _example_request(model: Any) -> tuple[str, str] | None:
    """Return a model's name and a request that fits its metadata, if it is small."""
    if not model.ready or not model.get_input_types():
        return None
    inputs = []
    for tensor in model.get_input_types():
        shape = [1 if size < 0 else size for size in tensor["shape"]]
        value: Any = {"BYTES": "text", "BOOL": True}.get(tensor["datatype"], 1)
        if prod(shape) > LARGEST_EXAMPLE:
            return None
        inputs.append({**tensor, "shape": shape, "data": [value] * prod(shape)})
    return model.name, orjson.dumps({"inputs": inputs}).decode()
