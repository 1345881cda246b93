"""Finish the image's environment, with its own Python: pins, tests, byte code."""

from __future__ import annotations

import compileall
import re
import shutil
import sys
from importlib.metadata import distributions
from pathlib import Path
from py_compile import PycInvalidationMode
from sysconfig import get_path

HOME = Path(sys.prefix).parent
PACKAGES = Path(get_path("purelib"))
WITH_TESTS = ("numpy", "pandas")
"""Packages with tens of megabytes of tests that nothing imports."""
NEVER_IMPORTED = re.compile(r"/kubernetes/aio/")
"""Large code that kserve does not import: it stays, but is not compiled."""


def write_constraints() -> None:
    """Write the installed versions, for images that add packages to them."""
    installed = sorted(f"{d.name}=={d.version}\n" for d in distributions())
    (HOME / "constraints.txt").write_text("".join(installed))


def remove_tests() -> None:
    """Remove the tests of packages that have large ones."""
    for package in WITH_TESTS:
        for tests in (PACKAGES / package).rglob("tests"):
            shutil.rmtree(tests)


def add_handlers_path() -> None:
    """Let Python import what derived images install, after everything else."""
    below = PACKAGES.relative_to(sys.prefix)
    (PACKAGES / "oip-handlers.pth").write_text(f"{HOME / 'handlers' / below}\n")


def compile_packages() -> None:
    """Compile the packages without later checks: no file of the image ever changes."""
    for old in PACKAGES.rglob("__pycache__"):
        shutil.rmtree(old)
    compileall.compile_dir(
        PACKAGES, quiet=2, workers=0, rx=NEVER_IMPORTED,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip


if __name__ == "__main__":
    write_constraints()
    remove_tests()
    add_handlers_path()
    compile_packages()
