"""What the operating system says: CPU time and memory of a server, and the machine.

psutil reads all of it from /proc. The clock of CPU time has ticks of 10 ms.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

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
    """A process and its descendants; none if it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


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
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def busy_seconds() -> float:
    """What all cores of the machine have worked so far, for anybody."""
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - times.iowait)


def cpu_model() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "unknown"


def memory_gb() -> int:
    total: int = psutil.virtual_memory().total
    return round(total / 1e9)


def cores() -> int:
    """Those that this process may use."""
    return len(psutil.Process().cpu_affinity())
