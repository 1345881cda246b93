"""The cost of importing the contract, and the modules that it never imports."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import oip_handler

SOURCE = Path(oip_handler.__file__).parent.parent
PACKAGES = ("oip_handler", "aissemble_open_inference_protocol_shared")
SERVERS = {
    "aiohttp", "fastapi", "google", "grpc", "httptools", "kserve", "oip_host", "pluggy",
    "prometheus_client", "ray", "starlette", "uvicorn", "uvloop",
}  # fmt: skip


def modules() -> list[str]:
    """Return the dotted name of every module of the distribution."""
    paths = [path for name in PACKAGES for path in (SOURCE / name).rglob("*.py")]
    parts = [path.relative_to(SOURCE).with_suffix("").parts for path in paths]
    return sorted(".".join(p for p in each if p != "__init__") for each in parts)


def run(program: str) -> str:
    """Return the output of a program in a new process without imports."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_no_module_imports_a_server() -> None:
    """Importing all modules imports neither kserve nor grpc nor a web server."""
    names = modules()
    assert "oip_handler.boundary" in names
    assert "aissemble_open_inference_protocol_shared.types.dataplane" in names
    imports = "; ".join(f"import {name}" for name in names)
    loaded = run(f"import sys; {imports}; print(*sys.modules)").split()
    assert set() == {name.split(".")[0] for name in loaded} & SERVERS


def test_package_alone_does_not_import_numpy() -> None:
    """Names load at first use, and the errors need no other module."""
    assert "False\n" == run(
        "import sys, oip_handler.errors; print('numpy' in sys.modules)"
    )


def test_import_takes_under_a_third_of_a_second() -> None:
    """It is CPU time, in up to ten processes: a busy machine must not fail this."""
    program = (
        "import time; start = time.process_time()\n"
        "from oip_handler import *\n"
        "print(time.process_time() - start)"
    )
    assert any(float(run(program)) < 0.3 for _ in range(10))


def test_every_public_name_exists() -> None:
    """`__all__` is sorted, and each name is the object of its module."""
    assert sorted(oip_handler.__all__) == oip_handler.__all__
    for name in oip_handler.__all__:
        value = getattr(oip_handler, name)
        home = import_module(f"oip_handler.{oip_handler._HOME_OF[name]}")
        assert value is getattr(home, name)
        assert name in home.__all__
    assert not hasattr(oip_handler, "NoSuchName")
