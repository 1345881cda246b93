"""Files that are read again when they change: tokens, certificates and properties.

One rule for all: a change is noticed by what `stat` tells of a file, behind all links,
so that it does not matter whether the file was written in place, moved there, or
swapped as Kubernetes swaps the link to a mounted volume. What cannot be read leaves the
previous value in use.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from oip_host.errors import ConfigurationError

__all__ = ["CHECK_EVERY_S", "WatchedFile", "refresh_all", "watch_files"]

log = logging.getLogger("oip_host")

T = TypeVar("T")

CHECK_EVERY_S = 1.0
"""Seconds between two checks whether a file has changed."""

Stamp = tuple["tuple[int, ...] | None", ...]
"""A mark that every change of a file alters; None for one that cannot be opened."""


class WatchedFile(Generic[T]):
    """A value made of a file, or of several that belong together.

    `load` makes the value, and the constructor raises what it raises. Later a fault of
    it (OSError, ValueError, ConfigurationError) keeps the previous value, so that a
    file which is half-written locks nobody out. `name` and `content` are what the log
    calls the files and the value.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        load: Callable[[], T],
        name: str = "",
        content: str = "contents",
    ) -> None:
        self._paths = paths
        self._load = load
        self._name = name or ", ".join(str(path) for path in paths)
        self._content = content
        self._stamp = self._stat()  # before reading: a change meanwhile is read again
        self._faulty: Stamp | None = None
        self._reported: Stamp | None = None
        self.value = load()

    def refresh(self) -> bool:
        """Read the files again if they have changed, and return whether they were read.

        Files that are written one by one do not fit together for a moment, so a fault
        is reported once it is there at two checks in a row, and only once.
        """
        stamp = self._stat()
        if stamp == self._stamp:
            return False
        try:
            self.value = self._load()
        except (OSError, ValueError, ConfigurationError) as error:
            if stamp == self._faulty != self._reported:
                self._reported = stamp
                self._report(error)
            self._faulty = stamp
            return False
        self._stamp, self._faulty = stamp, None
        return True

    def _report(self, error: Exception) -> None:
        """Log each fault, and that the previous value stays in use."""
        faults = error.faults if isinstance(error, ConfigurationError) else [error]
        for fault in faults:
            log.error(
                "could not load the renewed %s, still using the previous %s: %s",
                self._name, self._content, fault,
            )  # fmt: skip

    def _stat(self) -> Stamp:
        return tuple(_stat(path) for path in self._paths)


def _stat(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """Return what differs after every change of a file, or None without the file."""
    try:
        # only an open file is sure to be up to date on a network's file system
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        now = os.fstat(file)
    finally:
        os.close(file)
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


async def watch_files(
    files: Sequence[WatchedFile[Any]], checked: Callable[[bool], None]
) -> None:
    """Check the files every second until cancelled.

    After each check `checked` is called with whether any file was read again.
    """
    while True:
        try:
            checked(await asyncio.to_thread(refresh_all, files))
        except Exception:
            log.exception("could not check the watched files for changes")
        await asyncio.sleep(CHECK_EVERY_S)


def refresh_all(files: Sequence[WatchedFile[Any]]) -> bool:
    """Refresh each of the files, and return whether any was read again."""
    results = [file.refresh() for file in files]
    return any(results)
