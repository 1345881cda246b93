"""The servers that are measured, and their commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FLOOR", "HOST", "PEERS", "Place", "Server"]

ROOT = Path(__file__).parent.parent
OPTIONS = {"fixedcost": {"max_batch_size": 64}, "sleeper": {"max_concurrency": 16}}
"""The host's options for a handler."""


@dataclass(frozen=True)
class Place:
    """The place of a server: its ports and directories, and the models to serve."""

    python: Path
    http_port: int
    grpc_port: int
    spare_port: int
    directory: Path
    """Empty, and removed afterwards."""
    handlers: Path
    """Where the plugin with the handlers is installed."""
    models: Mapping[str, str]
    """The handler of each model: arrays, lists, fixedcost or sleeper."""

    @property
    def ports(self) -> list[str]:
        """The arguments for the ports, as KServe has them."""
        return [f"--http_port={self.http_port}", f"--grpc_port={self.grpc_port}"]


Command = tuple[list[str], dict[str, str]]
"""A command line and what its environment has in addition."""


@dataclass(frozen=True)
class Server:
    """A server, and how it is installed and started."""

    name: str
    command: Callable[[Place], Command]
    packages: Sequence[str]
    """Packages whose versions the page shows."""
    steps: Sequence[Sequence[str]] = ()
    """The steps that make its environment; none: it runs in that of the project."""
    cannot: Mapping[str, str] = field(default_factory=dict)
    """The reason by each workload that it cannot do."""


def _app(place: Place, name: str, *arguments: str, **env: str) -> Command:
    """Return a program of `apps/`."""
    module = [str(place.python), "-m", f"bench.apps.{name}"]
    path = {"PYTHONPATH": str(ROOT), "BENCH_MODELS": json.dumps(dict(place.models))}
    return [*module, *arguments], {**path, **env}


def _floor(place: Place) -> Command:
    return _app(place, "floor", str(place.http_port), str(place.grpc_port))


def _host(place: Place) -> Command:
    options = {
        name: OPTIONS[handler]
        for name, handler in place.models.items()
        if handler in OPTIONS
    }
    selected = [f"{name}={handler}" for name, handler in place.models.items()]
    program = str(place.python.parent / "oip-host")
    return [program, "serve", "--bind=127.0.0.1", "--drain_delay_s=0", *place.ports], {
        "PYTHONPATH": str(place.handlers),
        "OIP_HANDLERS": ",".join(selected),
        "OIP_MODELS": json.dumps(options),
    }


def _kserve(place: Place) -> Command:
    return _app(place, "kserve_models", *place.ports)


def _upstream(place: Place) -> Command:
    configuration = place.directory / "configuration"
    configuration.mkdir()  # it watches all of this directory, so it has one for itself
    return _app(
        place, "upstream_model", *place.ports, KRAUSENING_BASE=str(configuration)
    )


def _mlserver(place: Place) -> Command:
    settings = {
        "host": "127.0.0.1",
        "http_port": place.http_port,
        "grpc_port": place.grpc_port,
        "metrics_port": place.spare_port,
        "parallel_workers": 0,
    }
    (place.directory / "settings.json").write_text(json.dumps(settings))
    for name, handler in place.models.items():
        model: dict[str, Any] = {
            "name": name,
            "implementation": f"bench.apps.mlserver_models.{handler.capitalize()}",
        }
        if handler == "fixedcost":
            model |= {"max_batch_size": 64, "max_batch_time": 0.005}
        (place.directory / name).mkdir()
        (place.directory / name / "model-settings.json").write_text(json.dumps(model))
    program = str(place.python.parent / "mlserver")
    return [program, "start", str(place.directory)], {"PYTHONPATH": str(ROOT)}


_COMMON = ["uvicorn", "uvloop", "grpcio", "protobuf", "orjson", "numpy"]
_NO_LISTS = "its models are written with arrays only"

FLOOR = Server("floor", _floor, ["httptools", *_COMMON])
HOST = Server("oip-host", _host, ["oip-host", "kserve", "pydantic", *_COMMON])
PEERS = {
    peer.name: peer
    for peer in (
        Server(
            "kserve",
            _kserve,
            ["kserve", "fastapi", "starlette", "pydantic", *_COMMON],
            steps=[["kserve==0.21.0"]],
            cannot={"rest-large-lists": _NO_LISTS},
        ),
        Server(
            "mlserver",
            _mlserver,
            ["mlserver", "fastapi", "starlette", "pydantic", *_COMMON],
            steps=[["mlserver==1.7.1", "uvloop<0.22"]],  # 0.22 breaks its start
            cannot={
                "bin-large": "it does not know the binary extension of REST",
                "rest-large-lists": _NO_LISTS,
            },
        ),
        Server(
            "upstream",
            _upstream,
            [
                "aissemble-open-inference-protocol-kserve",
                "kserve",
                "pydantic",
                *_COMMON,
            ],
            # in two steps: together no resolver comes to an end
            steps=[
                ["kserve==0.15.2"],
                [
                    "--no-deps",
                    "aissemble-open-inference-protocol-kserve==1.1.0",
                    "aissemble-open-inference-protocol-shared==1.1.0",
                    "krausening==21",
                    "javaproperties",
                    "watchdog",
                    "cryptography",
                    "cffi",
                    "pycparser",
                    "six",
                ],
            ],
            cannot={
                "bin-large": "it answers the binary extension with JSON",
                "grpc-small": "its handlers do not see raw contents",
                "grpc-large": "its handlers do not see raw contents",
                "many": "it serves one model",
            },
        ),
    )
}
