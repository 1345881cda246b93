"""The process's memory: what the allocator keeps, and what the collector looks at."""

from __future__ import annotations

import ctypes
import gc
import os

__all__ = ["keep_large_blocks", "settle"]

# parameters of mallopt(3)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LEAST_THRESHOLD, _MOST_THRESHOLD = 128 << 10, 32 << 20
"""glibc's own size of a block from which it is mapped, and the largest it takes."""
_MOST = 2**31 - 1
"""The largest number that mallopt takes; of a larger one C makes another."""


def keep_large_blocks(most_bytes: int) -> bool:
    """Have glibc keep up to `most_bytes` of free memory, rather than give it back.

    Left alone, it returns each block of some 100 kB to the kernel, and every page of
    the next tensor is a page fault: for tensors that is the larger part of a request.
    False where there is no glibc, where `most_bytes` is 0, or where a `MALLOC_…`
    variable says that somebody has thought about it already.
    """
    if not most_bytes or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    most_bytes = min(most_bytes, _MOST)
    threshold = max(_LEAST_THRESHOLD, min(_MOST_THRESHOLD, most_bytes))
    return all(
        mallopt(parameter, value)
        for parameter, value in (
            (_MMAP_THRESHOLD, threshold),
            (_TRIM_THRESHOLD, most_bytes),
            (_TOP_PAD, min(threshold, most_bytes // 4)),
        )
    )


def settle() -> None:
    """Leave all objects that are there out of later collections, which come seldom.

    What was imported and loaded stays, and looking through it again is most of what a
    collection costs; a request leaves no cycles behind.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
