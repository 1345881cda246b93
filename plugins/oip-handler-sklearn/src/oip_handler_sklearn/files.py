"""Reading an estimator from a file: joblib (a pickle) or skops, by its suffix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oip_handler import model_file

__all__ = ["SUFFIXES", "read_estimator"]

SUFFIXES = (".joblib", ".pickle", ".pkl", ".skops")
"""The suffixes that a model file may have, in lower case."""


def read_estimator(path: Path, trusted: Sequence[str]) -> Any:
    """Read the object in a file; `trusted` names the types that a skops file may hold.

    A directory stands for the one model file in it. Raises FileNotFoundError if there
    is no such file, and ValueError if it cannot be read, holds types that neither skops
    nor `trusted` allows, or is no skops file although `trusted` is set.
    """
    path = model_file(path, SUFFIXES)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    if path.suffix.lower() == ".skops":
        return _read_skops(path, trusted)
    if trusted:
        raise ValueError(f"'trusted' cannot restrict {path}, expected a .skops file")
    return _read_joblib(path)


def _read_joblib(path: Path) -> Any:
    import joblib  # type: ignore[import-untyped]  # it ships no types

    with _name_file(path):
        return joblib.load(path)


def _read_skops(path: Path, trusted: Sequence[str]) -> Any:
    from skops import io  # type: ignore[import-untyped]  # it ships no types

    with _name_file(path):
        unknown = sorted(set(io.get_untrusted_types(file=path)) - set(trusted))
    if unknown:
        raise ValueError(
            f"{path} holds types that are not trusted: {', '.join(unknown)}; "
            "name them in the setting 'trusted' if you know where the file is from"
        )
    with _name_file(path):
        return io.load(path, trusted=list(trusted))


@contextmanager
def _name_file(path: Path) -> Iterator[None]:
    """Name the file in what reading it raises; a broken pickle may raise anything."""
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"{path} cannot be read: {kind}: {error}") from error
