"""Finishes the image's environment, with its own Python: pins, tests, byte code."""

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
TESTED = ("numpy", "pandas")
"""Packages that bring tens of megabytes of tests, and import none of them."""
NEVER_RUN = re.compile(r"/kubernetes/aio/")
"""Large code that kserve does not import: it stays, without byte code."""


def pin() -> None:
    """Write the versions that are here, for those who add to them."""
    installed = sorted(f"{d.name}=={d.version}\n" for d in distributions())
    (HOME / "constraints.txt").write_text("".join(installed))


def drop_tests() -> None:
    """Remove the tests of packages whose tests are large."""
    for package in TESTED:
        for tests in (PACKAGES / package).rglob("tests"):
            shutil.rmtree(tests)


def look_at_handlers() -> None:
    """Have Python import what images made from this one install, after all else."""
    below = PACKAGES.relative_to(sys.prefix)
    (PACKAGES / "oip-handlers.pth").write_text(f"{HOME / 'handlers' / below}\n")


def compile_packages() -> None:
    """Compile what is here, for good: no file of the image ever changes."""
    for old in PACKAGES.rglob("__pycache__"):
        shutil.rmtree(old)
    compileall.compile_dir(
        PACKAGES, quiet=2, workers=0, rx=NEVER_RUN,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip


if __name__ == "__main__":
    pin()
    drop_tests()
    look_at_handlers()
    compile_packages()
