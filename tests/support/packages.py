"""Plugin packages that a test writes and installs with pip into a directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

from support.process import SUPPORT, run

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "{version}"

[tool.setuptools]
py-modules = [{modules}]
"""


@dataclass(frozen=True)
class Package:
    """A distribution of single modules, with entry points by group and name."""

    name: str
    version: str
    modules: Mapping[str, str]
    entry_points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def write(self, directory: Path) -> Path:
        """Write the package's source tree into its own directory, and return it."""
        tree = directory / self.name
        tree.mkdir(parents=True)
        modules = ", ".join(f'"{name}"' for name in self.modules)
        text = PYPROJECT.format(name=self.name, version=self.version, modules=modules)
        for group, points in self.entry_points.items():
            lines = [f'{name} = "{target}"\n' for name, target in points.items()]
            text += f'\n[project.entry-points."{group}"]\n{"".join(lines)}'
        (tree / "pyproject.toml").write_text(text)
        for name, source in self.modules.items():
            (tree / f"{name}.py").write_text(dedent(source))
        return tree


def pip_install(packages: Sequence[Package], directory: Path) -> Path:
    """Build and install the packages with pip, and return the directory.

    It needs no index: setuptools, which builds them, is installed with pytest.
    """
    target = directory / "installed"
    trees = [str(package.write(directory / "source")) for package in packages]
    done = run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
        "--no-build-isolation", "--disable-pip-version-check", "--no-compile",
        "--target", str(target), *trees,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def with_packages(
    target: Path, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return variables for a process with the packages and the tests' own handlers."""
    paths = [str(SUPPORT), str(target), os.environ.get("PYTHONPATH")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        **(extra or {}),
    }
