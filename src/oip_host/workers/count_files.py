"""What each worker has counted, in files that outlive it, so that no total goes back.

A worker writes its file before a number of it is given out, and some time after each
change. The files of those that died are made one.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import REGISTRY

from oip_host.models.registry import Registry
from oip_host.telemetry.statistics import together
from oip_host.workers import count_merge as totals
from oip_host.workers.identity import Place

__all__ = ["Counted", "Snapshots"]

log = logging.getLogger("oip_host")

WRITE_EVERY_S = 1.0
"""Seconds between two looks at whether there is something new."""
_DEAD = "dead.json"
_LOCK = "counts.lock"

Document = dict[str, Any]
"""A file: `families`, `statistics`, and `of`, the names of files that are in it."""


class Counted(NamedTuple):
    """The counts of all workers, of those that died too."""

    families: list[totals.Family]
    statistics: list[dict[str, Any]]
    """A `$model_stat` of each model version."""


class Snapshots:
    """The files in the directory of the workers, for one of them."""

    def __init__(self, place: Place, registry: Registry) -> None:
        self._directory = place.path
        # a process id may come again, and a file never does
        name = f"{place.index}-{os.getpid()}-{time.time_ns()}.json"
        self._own = place.path / name
        self._registry = registry
        self._writing = asyncio.Lock()
        self._written = b""
        self._inferences = 0

    async def keep(self) -> None:
        """Write what is new, for as long as the worker serves."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            if self._finished() != self._inferences:
                await self.write()

    async def write(self) -> bool:
        """Write what this worker has counted; False where that fails, which is logged.

        Nothing is written where nothing has changed.
        """
        async with self._writing:
            finished = self._finished()
            document = {
                "families": totals.packed(REGISTRY.collect()),
                "statistics": self._registry.statistics(),
            }
            try:
                await asyncio.to_thread(self._write, document)
            except OSError as error:
                log.error("what was counted cannot be written: %s", error)
                return False
            self._inferences = finished
            return True

    async def read(self) -> Counted:
        """What all workers have counted, as their files say."""
        return await asyncio.to_thread(self._read)

    def bury(self) -> None:
        """Make the files of those that died one, before this worker writes its own.

        So there are never many of them. The one lists the others until they are gone:
        who is killed half-way leaves nothing that counts twice.
        """
        with self._locked(fcntl.LOCK_EX):
            living, dead = self._files()
            if not [path for path in dead if path.name != _DEAD]:
                return
            gone = [path for path in self._each() if path not in living]
            counted = _sum([], list(dead.values()))
            document = {**counted._asdict(), "of": [path.name for path in gone]}
            _replace(self._directory / _DEAD, json.dumps(document).encode())
            for path in gone:
                path.unlink()

    def _finished(self) -> int:
        return sum(sum(model.statistics.outcomes.values()) for model in self._registry)

    def _write(self, document: Document) -> None:
        data = json.dumps(document).encode()  # which has NaN, as a metric may
        if data != self._written:
            _replace(self._own, data)
            self._written = data

    def _read(self) -> Counted:
        with self._locked(fcntl.LOCK_SH):
            living, dead = self._files()
        return _sum(list(living.values()), list(dead.values()))

    def _files(self) -> tuple[dict[Path, Document], dict[Path, Document]]:
        """The files of the living and of the dead."""
        living: dict[Path, Document] = {}
        dead: dict[Path, Document] = {}
        buried = self._directory / _DEAD
        if buried.exists():
            dead[buried] = json.loads(buried.read_bytes())
        counted = dead[buried]["of"] if dead else []
        for path in self._each():
            if path.name not in counted:
                files = living if self._is_alive(path) else dead
                files[path] = json.loads(path.read_bytes())
        return living, dead

    def _each(self) -> list[Path]:
        """The file of each worker that has one."""
        return sorted(self._directory.glob("*-*.json"))

    def _is_alive(self, path: Path) -> bool:
        """Whether the process is there that wrote a file."""
        pid = int(path.name.split("-")[1])
        if pid == os.getpid():
            return path == self._own
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Keep others from moving files, or with LOCK_EX from reading them too."""
        with (self._directory / _LOCK).open("a") as file:
            fcntl.flock(file.fileno(), how)
            yield


def _sum(living: list[Document], dead: list[Document]) -> Counted:
    statistics: dict[tuple[str, str], Any] = {}
    for document in (*living, *dead):
        for one in document["statistics"]:
            key = one["name"], one["version"]
            other = statistics.get(key)
            statistics[key] = one if other is None else together(other, one)
    families = totals.summed(
        [document["families"] for document in living],
        [document["families"] for document in dead],
    )
    return Counted(families, list(statistics.values()))


def _replace(path: Path, data: bytes) -> None:
    """Write a file that nobody ever sees half-written."""
    # of those who are killed as they write, one is left of an index at most
    fresh = path.with_name(path.name.partition("-")[0]).with_suffix(".new")
    fresh.write_bytes(data)
    os.replace(fresh, path)
