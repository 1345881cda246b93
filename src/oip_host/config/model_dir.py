"""The default place of a model's files below the model directory."""

from __future__ import annotations

import os
from pathlib import Path

from oip_host.config.selection import DEFAULT_VERSION

__all__ = ["find_default_path"]


def find_default_path(
    directory: Path, name: str, version: str
) -> tuple[Path | None, str]:
    """Return the default path of a model's files if it exists, and all places sought.

    It is `<name>/<version>` for a version other than the default, else `<name>`.
    """
    places = [(name,)] if version == DEFAULT_VERSION else [(name, version), (name,)]
    # no name may lead out of the directory
    tried = [directory.joinpath(*p) for p in places if all(map(_is_plain, p))]
    found = next((path for path in tried if path.exists()), None)
    return found, " or ".join(f"'{path}'" for path in tried)


def _is_plain(part: str) -> bool:
    """Return whether a part of a path stays within its directory."""
    return part not in ("", ".", "..") and os.sep not in part and "\0" not in part
