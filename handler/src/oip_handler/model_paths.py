"""Paths of model files: what a handler's settings name, below the model directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

__all__ = ["ModelPath", "find_path_fields", "model_file"]


@dataclass(frozen=True)
class _BelowModelDir:
    """Marks a setting whose relative path is below the model directory."""


ModelPath = Annotated[Path, _BelowModelDir()]
"""The path of a file or directory of a model, for a field of a handler's `Settings`.

A relative one is below `oip_model_dir`, where that is set. A required field that nobody
sets is `<oip_model_dir>/<model name>`, where that exists. It may be optional
(`ModelPath | None`), but not part of a list or of another object.
"""


def find_path_fields(declared: type[BaseModel]) -> Iterator[tuple[str, bool]]:
    """Each setting that is a ModelPath: its name, and whether it is required."""
    for name, field in declared.model_fields.items():
        parts = [*field.metadata, *_parts(field.annotation)]
        if any(isinstance(part, _BelowModelDir) for part in parts):
            yield field.alias or name, field.is_required()


def _parts(annotation: Any) -> Iterator[Any]:
    """What stands beside the type in each member of a union."""
    if get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from get_args(member)


def model_file(path: Path, suffixes: Sequence[str]) -> Path:
    """The one file of a directory with one of these suffixes; another path as it is.

    Suffixes are in lower case, with their dot. Raises FileNotFoundError for a directory
    with no such file, and ValueError for one with several.
    """
    if not path.is_dir():
        return path
    found = sorted(
        each
        for each in path.iterdir()
        if each.suffix.lower() in suffixes
        and not each.name.startswith(".")
        and each.is_file()
    )
    expected = " or ".join(suffixes)
    if not found:
        raise FileNotFoundError(
            f"there is no model file {path}: it is a directory without a file that "
            f"ends in {expected}"
        )
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:5])
        raise ValueError(
            f"{path}: found {len(found)} files that end in {expected} ({names}), "
            "expected one; set the path of the file"
        )
    return found[0]
