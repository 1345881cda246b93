"""Memory: what the allocator keeps for the next tensors, and the garbage collector."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from oip_host.host import memory
from support.process import run

MIB = 1 << 20
LARGEST_INT = 2**31 - 1
"""The most that mallopt(3) takes; beyond it C would see another number."""

ROUNDS = """
import ctypes, json, resource, sys
import numpy as np
from oip_host.host.memory import keep_large_blocks

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, of which few are enough
kept = keep_large_blocks(int(sys.argv[1]))
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [np.full(1 << 20, 1.0) for _ in range(5)]
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps([kept, min(faults), max(faults[2:])]))
"""
"""Page faults for five tensors of 8 MiB: the least of a round, and the most later."""
PAGES = 5 * 8 * MIB // os.sysconf("SC_PAGE_SIZE")


def is_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (OSError, ValueError):
        return False


only_glibc = pytest.mark.skipif(not is_glibc(), reason="mallopt is glibc's")


def rounds(most_bytes: int, env: dict[str, str] | None = None) -> Any:
    """Return the page faults that a new process reports."""
    plain = {"NUMPY_MADVISE_HUGEPAGE": "0", **(env or {})}
    done = run(sys.executable, "-c", ROUNDS, str(most_bytes), env=plain)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without variables of the allocator."""
    for name in os.environ:
        if name.startswith("MALLOC_"):
            monkeypatch.delenv(name)


@only_glibc
@pytest.mark.usefixtures("quiet")
def test_freed_memory_is_reused_without_page_faults() -> None:
    """Repeated allocations of one size cause no page faults after the first rounds."""
    kept, _, late = rounds(256 * MIB)
    assert kept is True
    assert late < PAGES / 100


@only_glibc
@pytest.mark.usefixtures("quiet")
def test_limit_of_zero_leaves_glibc_unchanged() -> None:
    """With 0 each page of each tensor is a page fault, as in glibc by default."""
    kept, least, _ = rounds(0)
    assert kept is False
    assert least > PAGES / 2


@only_glibc
@pytest.mark.usefixtures("quiet")
def test_malloc_variable_takes_precedence() -> None:
    """With a `MALLOC_…` variable in the environment the host changes nothing."""
    kept, least, _ = rounds(256 * MIB, {"MALLOC_ARENA_MAX": "2"})
    assert kept is False
    assert least > PAGES / 2


class Library:
    """A C library that records the calls of its mallopt."""

    def __init__(self, answer: int = 1) -> None:
        self.asked: list[tuple[int, int]] = []
        self.answer = answer

    def mallopt(self, parameter: int, value: int) -> int:
        self.asked.append((parameter, value))
        return self.answer


@pytest.fixture
def load(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[..., Any]], None]:
    """Make `ctypes` load another C library."""
    return lambda loaded: monkeypatch.setattr(ctypes, "CDLL", loaded)


def test_other_c_libraries_are_left_alone(load: Callable[..., None]) -> None:
    """musl and macOS have no mallopt, and Windows has no C library of this kind."""

    def none(name: None) -> Any:
        raise OSError("no such library")

    load(lambda name: object())
    assert memory.keep_large_blocks(MIB) is False
    load(none)
    assert memory.keep_large_blocks(MIB) is False


def test_refusal_of_mallopt_returns_false(load: Callable[..., None]) -> None:
    """glibc returns 0 for a parameter that it does not accept."""
    load(lambda name: Library(answer=0))
    assert memory.keep_large_blocks(MIB) is False


@pytest.mark.parametrize(
    "most_bytes",
    [1, 4096, MIB, 256 * MIB, LARGEST_INT, 2**31, 2**32, 2**40, 2**70],
    ids="{:,}".format,
)
def test_every_size_is_valid_for_glibc(
    load: Callable[..., None], most_bytes: int
) -> None:
    """No size overflows, and a small one does not make every small block a mapping."""
    library = Library()
    load(lambda name: library)
    assert memory.keep_large_blocks(most_bytes) is True
    asked = dict(library.asked)
    assert asked.keys() == {-1, -2, -3}
    assert min(most_bytes, LARGEST_INT) == asked[-1]
    assert 0 <= asked[-2] <= 32 * MIB
    assert 128 << 10 <= asked[-3] <= 32 * MIB


def test_frozen_objects_are_not_collected_again() -> None:
    """After the start the collector ignores all loaded objects and runs rarely.

    Later objects are collected as usual.
    """
    program = """
import gc, json, weakref
from oip_host.host.memory import freeze_objects

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

loaded = [Node() for _ in range(1000)]
freeze_objects()
left = cycle()
before = left() is not None
gc.collect()
print(json.dumps([gc.isenabled(), gc.get_freeze_count() > 1000, gc.get_threshold()[0],
                  before, left() is None]))
"""
    done = run(sys.executable, "-c", program)
    assert [True, True, 50_000, True, True] == json.loads(done.stdout), done.stderr
    assert gc.get_freeze_count() == 0
