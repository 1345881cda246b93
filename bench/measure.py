"""Figures of the operating system: CPU time and memory of a server, and the machine.

psutil reads all of it from /proc. The clock of CPU time has ticks of 10 ms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from oip_host.replicas.ray_head import MARK

__all__ = [
    "busy_seconds",
    "cores",
    "cpu_model",
    "cpu_seconds",
    "memory_gb",
    "pss_mb",
    "tree",
]


def tree(pid: int) -> list[Any]:
    """Return a process, its descendants, and the Ray that a host has beside it.

    Returns no process if it has ended.
    """
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return [*family, *_beside(family)]


def _beside(family: list[Any]) -> list[Any]:
    """Return processes of the family's Ray that are no descendants of it."""
    marks = set(_marks(family))
    if not marks:
        return []
    known = {process.pid for process in family}
    others = (one for one in psutil.process_iter() if one.pid not in known)
    return [one for one in others if marks.intersection(_marks([one]))]


def _marks(processes: Iterable[Any]) -> Iterator[str]:
    """Return the directories of Ray that processes were started with."""
    for process in processes:
        with suppress(psutil.Error):  # it has ended, or is another user's
            mark = process.environ().get(MARK)
            if mark:
                yield mark


def cpu_seconds(pid: int) -> float:
    """User and system time of a tree so far, with that of children that have ended."""
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        total += times.children_user + times.children_system
    return total


def pss_mb(pid: int) -> float:
    """Memory of a tree in MB (10^6 bytes); a page that n processes share counts 1/n."""
    total = 0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 1e6


def busy_seconds() -> float:
    """Return the seconds that all cores of the machine have worked, for anybody."""
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - times.iowait)


def cpu_model() -> str:
    """Return the name of the processor."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "unknown"


def memory_gb() -> int:
    """Return the memory of the machine in GB (10^9 bytes)."""
    total: int = psutil.virtual_memory().total
    return round(total / 1e9)


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(psutil.Process().cpu_affinity())
