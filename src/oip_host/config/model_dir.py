"""Where a model's files are below the model directory."""

from __future__ import annotations

import os
from pathlib import Path

from oip_host.config.selection import DEFAULT_VERSION

__all__ = ["default_path"]


def default_path(directory: Path, name: str, version: str) -> tuple[Path | None, str]:
    """Where the files of a model are if nobody says, and where that was looked for.

    `<name>/<version>` for another version than the default one, else `<name>`.
    """
    places = [(name,)] if version == DEFAULT_VERSION else [(name, version), (name,)]
    # no name may lead out of the directory
    tried = [directory.joinpath(*p) for p in places if all(map(_is_plain, p))]
    found = next((path for path in tried if path.exists()), None)
    return found, " or ".join(f"'{path}'" for path in tried)


def _is_plain(part: str) -> bool:
    return part not in ("", ".", "..") and os.sep not in part and "\0" not in part
