"""A module that ends each process but the first that imports it, until `live` exists.

Each import adds a line to the file `starts` of the directory named in WORKER_DIR.
"""

from __future__ import annotations

import os
from pathlib import Path

from .echo import Echo

__all__ = ["Echo"]

CODE = 77

if "WORKER_DIR" in os.environ:
    _directory = Path(os.environ["WORKER_DIR"])
    with (_directory / "starts").open("a") as _starts:
        _starts.write(f"{os.getpid()}\n")
    _first = (_directory / "starts").read_text().startswith(f"{os.getpid()}\n")
    if not _first and not (_directory / "live").exists():
        os._exit(CODE)
