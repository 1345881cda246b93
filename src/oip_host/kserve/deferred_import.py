"""Importing KServe without pandas and its client of Kubernetes, until they are used.

They are half of the time and of the memory that `import kserve` takes, and a server
seldom needs them. Nothing is put into `sys.modules` in their place: three modules of
KServe are executed with an `__import__` of their own, which other modules, and other
threads that import the same names meanwhile, never meet.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

__all__ = ["defer_imports"]

_CLIENT = "kserve.api.kserve_client"
_IMPORTERS = ("kserve", "kserve.protocol.infer_type", "kserve.utils.utils")
"""The modules that import pandas or the client."""


class _Deferred(ModuleType):
    """Stands for a module within those that import it, as a private name of theirs.

    While they are executed its names are empty classes, enough for annotations; later
    they are those of the real module, imported when the first is asked for.
    """

    is_loading = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.is_loading:
            return type(name, (), {})
        return getattr(import_module(self.__name__), name)


class _Loader(SourceFileLoader):
    """Executes a module of KServe with deferred imports."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module; other threads wait for its end, as for any import."""
        deferred = {
            name: _Deferred(name)
            for name in ("pandas", _CLIENT)
            if name not in sys.modules
        }

        def import_deferred(name: str, *rest: Any) -> Any:
            is_relative = rest[3:] == (1,)  # globals, locals, fromlist and level
            full = f"{module.__name__}.{name}" if is_relative else name
            if full in deferred and deferred[full].is_loading:
                return deferred[full]
            return builtins.__import__(name, *rest)

        module.__dict__["__builtins__"] = {
            **vars(builtins),
            "__import__": import_deferred,
        }
        try:
            super().exec_module(module)
        finally:
            for stand_in in deferred.values():
                stand_in.is_loading = False
        if module.__name__ == "kserve" and _CLIENT in deferred:
            _defer_client(module)


def _defer_client(kserve: Any) -> None:
    """Import `kserve.KServeClient` when it is asked for (PEP 562)."""
    import_module("kserve.api")  # which the import of the client brings

    def import_client(name: str) -> Any:
        if name != "KServeClient":
            raise AttributeError(f"module 'kserve' has no attribute {name!r}")
        kserve.KServeClient = import_module(_CLIENT).KServeClient
        return kserve.KServeClient

    del kserve.KServeClient
    kserve.__getattr__ = import_client


class _Finder(MetaPathFinder):
    """Finds the importing modules where Python does, and gives them that loader."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of one of those modules; None leaves it to Python."""
        if fullname not in _IMPORTERS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


@contextmanager
def defer_imports() -> Iterator[None]:
    """Defer those imports of KServe, where it is imported within for the first time."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
