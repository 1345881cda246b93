"""Changes of models, one at a time in all workers, and what the last one wanted.

Each model that somebody changed has a file in the directory of the workers. It is
locked while the model changes, so that all workers see the same order, and it says what
the change is: a worker that starts later does not load what was unloaded.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["LOAD", "UNLOAD", "Changes"]

LOAD, UNLOAD = "load", "unload"
TRY_AGAIN_S = 0.02
"""Seconds between two looks at a lock that another one has."""


class Changes:
    """The changes of the models of one host, over all of its workers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @asynccontextmanager
    async def turn(self, name: str, change: str) -> AsyncIterator[None]:
        """Wait until nobody else changes a model, and be the one who does."""
        with self._path(name).open("a") as file:
            while not _locked(file.fileno()):  # noqa: ASYNC110  # by another process
                await asyncio.sleep(TRY_AGAIN_S)
            file.truncate(0)
            file.write(change)
            file.flush()
            yield

    def last(self, name: str) -> str | None:
        """The last change of a model; None where there was none."""
        path = self._path(name)
        return path.read_text() if path.exists() else None

    def _path(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode(errors="backslashreplace"), digest_size=16)
        return self._directory / f"{digest.hexdigest()}.change"


def _locked(file: int) -> bool:
    """Take the lock of a file, if nobody has it; its end, or ours, lets it go."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
