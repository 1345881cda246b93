"""Leaving a large module out of an import that does not need it yet.

`import sklearn` imports `scipy.stats` for the sake of one function that few estimators
call, and that takes a third of its time. The stand-in below answers for the module
until something asks it for a name; then the real one is imported, in whichever thread
that is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["deferred"]


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        _withdraw(self)
        return getattr(import_module(self.__name__), name)


def _withdraw(stand_in: ModuleType) -> None:
    if sys.modules.get(stand_in.__name__) is stand_in:
        del sys.modules[stand_in.__name__]


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Import inside this without importing module `name`, unless a name of it is used.

    Afterwards an import of the module is a real one again. What was bound meanwhile
    stays good: it leads to the real module. Nothing happens where it is imported
    already.
    """
    if name in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _StandIn(name)
    try:
        yield
    finally:
        _withdraw(stand_in)
