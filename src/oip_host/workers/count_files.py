"""The counts of each worker in a file that outlives it, so that no total goes back.

A worker writes its file before any of its counts is published, and soon after each
change. The files of workers that died are merged into one.
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
from oip_host.telemetry.statistics import merge_statistics
from oip_host.workers.count_merge import Family, merge_families, serialize_families
from oip_host.workers.identity import WorkerIdentity

__all__ = ["CountFiles", "Counts"]

log = logging.getLogger("oip_host")

WRITE_EVERY_S = 1.0
"""Seconds between two checks whether there are new counts."""
_DEAD = "dead.json"
_LOCK = "counts.lock"

Document = dict[str, Any]
"""A file: `families`, `statistics`, and `of`, the names of files merged into it."""


class Counts(NamedTuple):
    """The counts of all workers, including those that died."""

    families: list[Family]
    statistics: list[dict[str, Any]]
    """A `$model_stat` of each model version."""


class CountFiles:
    """The files in the workers' directory, as one of the workers uses them."""

    def __init__(self, identity: WorkerIdentity, registry: Registry) -> None:
        self._directory = identity.path
        # process ids are used again, and file names must not be
        name = f"{identity.index}-{os.getpid()}-{time.time_ns()}.json"
        self._own = identity.path / name
        self._registry = registry
        self._writing = asyncio.Lock()
        self._written = b""
        self._inferences = 0

    async def run_writer(self) -> None:
        """Write new counts until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            if self._count_finished() != self._inferences:
                await self.write()

    async def write(self) -> bool:
        """Write this worker's counts if they changed; log a failure, return False."""
        async with self._writing:
            finished = self._count_finished()
            document = {
                "families": serialize_families(REGISTRY.collect()),
                "statistics": self._registry.statistics(),
            }
            try:
                await asyncio.to_thread(self._write, document)
            except OSError as error:
                log.error("could not write the metrics snapshot: %s", error)
                return False
            self._inferences = finished
            return True

    async def read(self) -> Counts:
        """Return the counts of all workers, from their files."""
        return await asyncio.to_thread(self._read)

    def merge_dead_workers(self) -> None:
        """Merge the files of dead workers, before this worker writes its own.

        So there are never many files. The merged file lists its sources until they are
        removed, so that nothing counts twice if this process is killed half-way.
        """
        with self._locked(fcntl.LOCK_EX):
            living, dead = self._read_files()
            if not [path for path in dead if path.name != _DEAD]:
                return
            gone = [path for path in self._list() if path not in living]
            counts = _merge([], list(dead.values()))
            document = {**counts._asdict(), "of": [path.name for path in gone]}
            _replace(self._directory / _DEAD, json.dumps(document).encode())
            for path in gone:
                path.unlink()

    def _count_finished(self) -> int:
        return sum(sum(model.statistics.outcomes.values()) for model in self._registry)

    def _write(self, document: Document) -> None:
        data = json.dumps(
            document
        ).encode()  # unlike orjson it has NaN, as a metric may
        if data != self._written:
            _replace(self._own, data)
            self._written = data

    def _read(self) -> Counts:
        with self._locked(fcntl.LOCK_SH):
            living, dead = self._read_files()
        return _merge(list(living.values()), list(dead.values()))

    def _read_files(self) -> tuple[dict[Path, Document], dict[Path, Document]]:
        """Return the files of living workers and those of dead ones."""
        living: dict[Path, Document] = {}
        dead: dict[Path, Document] = {}
        merged = self._directory / _DEAD
        if merged.exists():
            dead[merged] = json.loads(merged.read_bytes())
        sources = dead[merged]["of"] if dead else []
        for path in self._list():
            if path.name not in sources:
                files = living if self._is_alive(path) else dead
                files[path] = json.loads(path.read_bytes())
        return living, dead

    def _list(self) -> list[Path]:
        """Return the file of each worker that has one."""
        return sorted(self._directory.glob("*-*.json"))

    def _is_alive(self, path: Path) -> bool:
        """Return whether the process that wrote a file is running."""
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
        """Keep others from merging files, and with LOCK_EX from reading them too."""
        with (self._directory / _LOCK).open("a") as file:
            fcntl.flock(file.fileno(), how)
            yield


def _merge(living: list[Document], dead: list[Document]) -> Counts:
    statistics: dict[tuple[str, str], Any] = {}
    for document in (*living, *dead):
        for one in document["statistics"]:
            key = one["name"], one["version"]
            other = statistics.get(key)
            statistics[key] = one if other is None else merge_statistics(other, one)
    families = merge_families(
        [document["families"] for document in living],
        [document["families"] for document in dead],
    )
    return Counts(families, list(statistics.values()))


def _replace(path: Path, data: bytes) -> None:
    """Replace a file, so that nobody ever reads it half-written."""
    # a worker that is killed while it writes leaves one such file for its index
    fresh = path.with_name(path.name.partition("-")[0]).with_suffix(".new")
    fresh.write_bytes(data)
    os.replace(fresh, path)
