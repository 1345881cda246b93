"""A file whose content is in effect, read anew when it has changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Renewed"]

log = logging.getLogger("oip_host")

T = TypeVar("T")


class Renewed(Generic[T]):
    """What `read` makes of the bytes of a file; it raises ValueError for wrong ones.

    The constructor raises OSError and ValueError. Later what the file said before holds
    until it can be read again: a file that is half written locks nobody out.
    """

    def __init__(self, path: str, read: Callable[[bytes], T]) -> None:
        self._path = Path(path)
        self._read = read
        self._seen = self._mark()
        self.value = read(self._path.read_bytes())

    def renew(self) -> bool:
        """Read the file where it has changed; tells whether there is a new value."""
        mark = self._mark()
        if mark == self._seen:
            return False
        self._seen = mark
        try:
            self.value = self._read(self._path.read_bytes())
        except (OSError, ValueError) as error:
            log.error("%s: %s; what it said before holds", self._path, error)
            return False
        log.info("%s has changed, and is in effect", self._path)
        return True

    def _mark(self) -> tuple[int, ...]:
        """What differs after every change; the same for as long as there is no file."""
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
