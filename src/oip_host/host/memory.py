"""The memory of the process: what the allocator keeps, what the collector visits."""

from __future__ import annotations

import ctypes
import gc
import os

__all__ = ["freeze_objects", "keep_large_blocks"]

# parameters of mallopt(3)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LEAST_THRESHOLD, _MOST_THRESHOLD = 128 << 10, 32 << 20
"""glibc's default size from which a block is mapped, and the largest it accepts."""
_MOST = 2**31 - 1
"""The largest number that mallopt accepts: its parameter is a C int."""


def keep_large_blocks(most_bytes: int) -> bool:
    """Let glibc keep up to `most_bytes` of free memory; return whether it does.

    By default it returns each block of some 100 kB to the kernel, and every page of the
    next tensor is a page fault, which is most of the time of a large request. Nothing
    changes without glibc, if `most_bytes` is 0, or if a `MALLOC_…` variable shows that
    somebody has set this already.
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


def freeze_objects() -> None:
    """Exempt all existing objects from later collections, and make these rare.

    What was imported and loaded stays, and visiting it again is most of what a
    collection costs; a request leaves no cycles behind.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
