"""The options of the host, read from the sources that a test gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from oip_host.config.configuration import Configuration, read

KRAUSENING = (
    "KRAUSENING_BASE",
    "KRAUSENING_EXTENSIONS",
    "KRAUSENING_OVERRIDE_EXTENSIONS",
    "KRAUSENING_PASSWORD",
)


class Levels:
    """Reads container arguments, environment variables and properties.

    Krausening reads the process's environment, so its variables are set there, and
    reset with the monkeypatch.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.monkeypatch = monkeypatch
        for name in KRAUSENING:
            monkeypatch.delenv(name, raising=False)

    def properties(
        self, content: Mapping[str, str], layer: str = "KRAUSENING_BASE"
    ) -> Path:
        """Write a Krausening layer's file, set its variable and return the file."""
        directory = self.directory / layer.lower()
        directory.mkdir(exist_ok=True)
        file = directory / "oip.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in content.items()))
        self.monkeypatch.setenv(layer, str(directory))
        return file

    def read(
        self,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> tuple[Configuration, list[str]]:
        """Return the configuration and its faults."""
        if properties:
            self.properties(properties)
        return read(arguments, environ or {})
