"""Watching `oip.properties` for changes, with the observer that Krausening uses.

Only the observer is Krausening's: inotify, or a poll where that does not work.
Krausening's own handler reloads a cache that the host does not have (see `sources`),
raises in the observer's thread, and only sees a file that is written in place: not one
that is moved there, nor a ConfigMap of Kubernetes, whose files change when the link
`..data` is turned to another directory. So here any event makes the host check the
files, and a check every few seconds finds the changes that have no events, as on a
network's file system.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oip_host.config.sources import property_files, read_property_files
from oip_host.config.watched_file import WatchedFile

__all__ = ["PropertyWatcher"]

log = logging.getLogger("oip_host")

CHECK_EVERY_S = 5.0
"""Seconds between two checks without an event."""
SETTLE_S = 0.2
"""Seconds from the first event to the check, so that the file is complete by then."""
_CHANGES = ("created", "deleted", "modified", "moved")
"""The kinds of events that are more than reading."""


class PropertyWatcher:
    """Reports when the options have to be read again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._is_requested = False
        self._had_terminal = os.isatty(0)

    def request(self) -> None:
        """Report that the options have to be read again, changed or not."""
        self._is_requested = True
        self._event.set()

    @property
    def is_terminal_closed(self) -> bool:
        """Whether a SIGHUP has its original meaning: the terminal was closed."""
        return self._had_terminal and not os.isatty(0)

    async def watch(
        self, seen: Sequence[bytes | None] = ()
    ) -> AsyncGenerator[bool, None]:
        """Yield each time the options have to be read, whether it was requested.

        `seen` are the contents of the files when the options were read: newer ones at
        the start of the watch count too.
        """
        paths = property_files()
        loop = asyncio.get_running_loop()
        seen = seen or [None] * len(paths)
        with _observe(paths, lambda: loop.call_soon_threadsafe(self._event.set)):
            files = await asyncio.to_thread(
                WatchedFile, paths, read_property_files, "properties"
            )
            while True:
                await asyncio.to_thread(files.refresh)
                is_requested, self._is_requested = self._is_requested, False
                if is_requested or files.value != seen:
                    seen = files.value
                    yield is_requested
                await self._wait(CHECK_EVERY_S if paths else None)

    async def _wait(self, timeout_s: float | None) -> None:
        """Wait for an event, or until it is time to check without one."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._event.wait(), timeout_s)
            if not self._is_requested:
                await asyncio.sleep(SETTLE_S)
        self._event.clear()


@contextmanager
def _observe(paths: Sequence[Path], notify: Callable[[], Any]) -> Iterator[None]:
    """Call `notify`, in the observer's thread, for events in the files' directories."""
    if not paths:
        yield
        return
    from krausening.properties.property_manager import (
        FileSystemEventHandler,
        Observer,
    )

    class Events(FileSystemEventHandler):  # type: ignore[misc]  # it has no types
        def dispatch(self, event: Any) -> None:
            if event.event_type in _CHANGES:
                with suppress(RuntimeError):  # the loop has ended
                    notify()

    # at DEBUG it logs each event, also of the reading that follows one
    logging.getLogger("watchdog").setLevel(logging.INFO)
    observer = Observer()
    try:
        for directory in {str(path.parent) for path in paths}:
            observer.schedule(Events(), directory)
        observer.start()
    except OSError as error:  # such as no inotify instance left for the user
        log.warning(
            "could not watch the properties, checking them every %g s instead: %s",
            CHECK_EVERY_S, error,
        )  # fmt: skip
    try:
        yield
    finally:
        observer.stop()
