"""The number of the host's own files that one small REST inference passes."""

from __future__ import annotations

import re
import subprocess
import sys

from support.process import SUPPORT, clean_environment

MOST_FILES, MOST_VISITS = 19, 57
"""Lower them with every change that shortens the path."""


def test_request_passes_few_files() -> None:
    """A reader who follows a request opens no more files than these."""
    finished = subprocess.run(
        [sys.executable, str(SUPPORT / "request_path.py")],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    found = re.search(r"^(\d+) files, (\d+) visits$", finished.stdout, re.MULTILINE)
    assert found is not None, finished.stdout + finished.stderr
    files, visits = map(int, found.groups())
    assert files <= MOST_FILES, finished.stdout
    assert visits <= MOST_VISITS, finished.stdout
