"""Paths of model files in a handler's settings, relative to the model directory."""

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
    """The mark of a setting whose relative path is below the model directory."""


ModelPath = Annotated[Path, _BelowModelDir()]
"""The path of a file or directory of a model, for a field of a handler's `Settings`.

A relative path is below `oip_model_dir`, if that is set. A required field without a
value becomes `<oip_model_dir>/<model name>`, if that exists. The field may be optional
(`ModelPath | None`), but not part of a list or of another object.
"""


def find_path_fields(declared: type[BaseModel]) -> Iterator[tuple[str, bool]]:
    """Yield the name of each ModelPath setting, and whether it is required."""
    for name, field in declared.model_fields.items():
        parts = [*field.metadata, *_union_metadata(field.annotation)]
        if any(isinstance(part, _BelowModelDir) for part in parts):
            yield field.alias or name, field.is_required()


def _union_metadata(annotation: Any) -> Iterator[Any]:
    """Yield the type and the metadata of each member of a union."""
    if get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from get_args(member)


def model_file(path: Path, suffixes: Sequence[str]) -> Path:
    """Return the one file in a directory with one of these suffixes.

    A path that is not a directory is returned as it is. Suffixes are in lower case,
    with their dot. Raises FileNotFoundError for a directory without such a file, and
    ValueError for one with several.
    """
    if not path.is_dir():
        return path
    files = sorted(
        each
        for each in path.iterdir()
        if each.suffix.lower() in suffixes
        and not each.name.startswith(".")
        and each.is_file()
    )
    expected = " or ".join(suffixes)
    if not files:
        raise FileNotFoundError(
            f"there is no model file {path}: it is a directory without a file that "
            f"ends in {expected}"
        )
    if len(files) > 1:
        names = ", ".join(each.name for each in files[:5])
        raise ValueError(
            f"{path}: found {len(files)} files that end in {expected} ({names}), "
            "expected one; set the path of the file"
        )
    return files[0]
