"""Noticing that `oip.properties` has changed, by what Krausening watches with.

Of Krausening's watch this uses the observer alone: inotify, or a poll where that is no
use. Its own handler reloads a cache that the host does not have (see `sources`), raises
in the observer's thread, and only sees a file that is written in place: not one that is
moved there, nor a ConfigMap of Kubernetes, whose files change as the link `..data` is
turned to another directory. So here any event is a reason to look at the content, and a
look now and then finds what has no events, as on a network's file system.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oip_host.config.sources import property_files

__all__ = ["Watch"]

log = logging.getLogger("oip_host")

LOOK_EVERY_S = 5.0
"""Seconds between two looks that no event is the reason of."""
WRITTEN_S = 0.2
"""Seconds from the first event to the look, so that a file is whole by then."""
_CHANGES = ("created", "deleted", "modified", "moved")
"""The kinds of events that are no mere reading."""


class Watch:
    """Says when there is a reason to read the options again."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()
        self._asked = False
        self._had_terminal = os.isatty(0)

    def ask(self) -> None:
        """Make a reason, whatever the files say."""
        self._asked = True
        self._bell.set()

    @property
    def terminal_is_gone(self) -> bool:
        """Whether a SIGHUP means what it first did: the terminal was closed."""
        return self._had_terminal and not os.isatty(0)

    async def reasons(self) -> AsyncGenerator[bool, None]:
        """Yield at each reason whether it was asked for; without end.

        What the files have at first is a reason too: it may be newer than the options.
        """
        files = property_files()
        seen: list[bytes | None] = [None] * len(files)
        loop = asyncio.get_running_loop()
        with _observed(files, lambda: loop.call_soon_threadsafe(self._bell.set)):
            while True:
                found = await asyncio.to_thread(_contents, files)
                asked, self._asked = self._asked, False
                if asked or found != seen:
                    seen = found
                    yield asked
                await self._next(LOOK_EVERY_S if files else None)

    async def _next(self, patience_s: float | None) -> None:
        """Wait for a bell, or until it is time to look without one."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._bell.wait(), patience_s)
            if not self._asked:
                await asyncio.sleep(WRITTEN_S)
        self._bell.clear()


def _contents(files: Sequence[Path]) -> list[bytes | None]:
    contents: list[bytes | None] = []
    for file in files:
        try:
            contents.append(file.read_bytes())
        except OSError:  # the reader of the options says which
            contents.append(None)
    return contents


@contextmanager
def _observed(files: Sequence[Path], tell: Callable[[], Any]) -> Iterator[None]:
    """Have events in the directories of the files told, in a thread of the observer."""
    if not files:
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
                    tell()

    # at DEBUG it has a line for each event, also for the reading that follows one
    logging.getLogger("watchdog").setLevel(logging.INFO)
    observer = Observer()
    try:
        for directory in {str(file.parent) for file in files}:
            observer.schedule(Events(), directory)
        observer.start()
    except OSError as error:  # as where the user has no inotify left
        log.warning("properties are looked at every %g s: %s", LOOK_EVERY_S, error)
    try:
        yield
    finally:
        observer.stop()
