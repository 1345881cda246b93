"""The names of the classes: from a file, or the thousand of ImageNet."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["read"]


def read(path: Path | None) -> list[str]:
    """Read the labels of a UTF-8 text file, one a line, in the order of the classes.

    None gives those of ImageNet-1k. Raises ValueError for a file that is not UTF-8 or
    has an empty line, and OSError for one that cannot be read.
    """
    if path is None:
        text = files("oip_handler_alexnet").joinpath("imagenet.txt").read_text("utf-8")
        return text.splitlines()
    try:
        labels = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"labels: {path} is not UTF-8: {error}") from error
    if "" in labels:
        raise ValueError(
            f"labels: line {labels.index('') + 1} of {path} is empty, "
            "expected a label on each line"
        )
    return labels
