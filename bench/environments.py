"""The environments that servers run in: one for each peer, made by uv."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["install_handlers", "install_server", "versions"]

HANDLERS = Path(__file__).parent / "handlers"
VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": sys.version.split()[0]}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def install_handlers(directory: Path) -> Path:
    """Install the plugin with the benchmark's handlers, for PYTHONPATH.

    Beside the environment of the project and not into it, where `oip-host serve` would
    serve them too.
    """
    target = directory / "handlers"
    shutil.rmtree(target, ignore_errors=True)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    _run([sys.executable, "-m", "pip", "install", *options, "--target", str(target),
          str(HANDLERS)])  # fmt: skip
    return target


def install_server(
    name: str, steps: Sequence[Sequence[str]], directory: Path
) -> Path | None:
    """Return the Python of a peer's environment; None if its installation fails.

    Each step is what one `uv pip install` is told. With no steps the server runs in the
    environment of this process.
    """
    if not steps:
        return Path(sys.executable)
    home, done = directory / name, directory / name / "installed.json"
    python = home / "bin" / "python"
    wanted = json.dumps(steps)
    if done.exists() and done.read_text() == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    try:
        uv = _uv()
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(home)])
        for step in steps:
            _run([uv, "pip", "install", "--quiet", "--python", str(python), *step])
    except OSError as error:
        print(f"{name} is not installed: {error}", file=sys.stderr)
        return None
    done.write_text(wanted)
    return python


def versions(python: Path, packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of those of the packages that are installed."""
    return dict(json.loads(_run([str(python), "-c", VERSIONS, *packages])))


def _uv() -> str:
    here = Path(sys.executable).parent
    found = shutil.which("uv", path=f"{here}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise OSError("uv is not found; `pip install uv` installs it")
    return found


def _run(command: Sequence[str]) -> str:
    """Run a command and return its output; raise OSError if it fails."""
    # without byte code the first start would compile all of it
    environment = {**os.environ, "UV_COMPILE_BYTECODE": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(done.stderr.strip())
    return done.stdout
