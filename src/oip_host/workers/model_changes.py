"""Loads and unloads of models, one at a time in all workers, and the last of each.

Each model that was loaded or unloaded has a file in the directory of the workers. It is
locked during the change, so that all workers see the same order, and it names the
change, so that a worker which starts later does not load what was unloaded.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["LOAD", "UNLOAD", "ModelChanges"]

LOAD, UNLOAD = "load", "unload"
RETRY_S = 0.02
"""Seconds between two attempts to get a lock that another worker has."""


class ModelChanges:
    """The changes of one host's models, in all of its workers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @asynccontextmanager
    async def acquire(self, name: str, change: str) -> AsyncIterator[None]:
        """Wait until no other worker changes a model, and keep others from doing so."""
        with self._path(name).open("a") as file:
            while not _try_lock(file.fileno()):  # noqa: ASYNC110  # by another process
                await asyncio.sleep(RETRY_S)
            file.truncate(0)
            file.write(change)
            file.flush()
            yield

    def read_last(self, name: str) -> str | None:
        """Return the last change of a model, or None if there was none."""
        path = self._path(name)
        return path.read_text() if path.exists() else None

    def _path(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode(errors="backslashreplace"), digest_size=16)
        return self._directory / f"{digest.hexdigest()}.change"


def _try_lock(file: int) -> bool:
    """Lock a file if nobody has locked it; closing it or ending releases the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
