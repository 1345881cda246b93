"""Wheels that a test writes without a build."""

from __future__ import annotations

import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from textwrap import dedent

HANDLER = """
from pathlib import Path

from pydantic import BaseModel

from oip_host import (
    InferenceResponse, ModelHandler, ModelMetadataResponse, ModelPath, ResponseOutput,
)


class Wheeled(ModelHandler):
    class Settings(BaseModel):
        path: ModelPath = Path("none")

    def __init__(self, settings):
        self.path = settings.path

    def model_load(self, model_name):
        return True

    def infer(self, payload, model_name, model_version=None):
        import os
        import numpy as np
        about = [__file__, str(self.path), str(os.getuid()), str(os.getgid())]
        if self.path.is_file():
            about.append(self.path.read_text())
        output = ResponseOutput.from_numpy("about", np.array(about, object))
        return InferenceResponse(model_name=model_name, outputs=[output])

    def model_metadata(self, model_name, model_version=None):
        return ModelMetadataResponse(
            name=model_name, platform="test", inputs=[], outputs=[]
        )
"""
"""The source of a handler that answers where it and its model are."""

REQUIRED = HANDLER.replace('ModelPath = Path("none")', "ModelPath")
"""The same with a path that has to be set, or to be found."""

ABOUT = {
    "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}],
}
"""A request that it answers."""


@dataclass(frozen=True)
class Wheel:
    """A distribution of single modules, with handlers by name."""

    name: str = "wheeled"
    version: str = "1.0"
    modules: Mapping[str, str] = field(default_factory=lambda: {"wheeled": HANDLER})
    handlers: Mapping[str, str] = field(
        default_factory=lambda: {"wheeled": "wheeled:Wheeled"}
    )
    requires: Sequence[str] = ()
    python: str = ">=3.10"
    tag: str = "py3-none-any"

    def write(self, directory: Path) -> Path:
        """Write the wheel into a directory, made if needed, and return its path."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.name}-{self.version}-{self.tag}.whl"
        record = ""
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in self._files().items():
                data = text.encode()
                digest = urlsafe_b64encode(sha256(data).digest()).decode().rstrip("=")
                record += f"{name},sha256={digest},{len(data)}\n"
                archive.writestr(name, data)
            name = f"{self._info}/RECORD"
            archive.writestr(name, f"{record}{name},,\n")
        return path

    def unpack(self, directory: Path) -> Path:
        """Write the files that `pip install --target` makes of the wheel."""
        for name, text in self._files().items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return directory

    @property
    def _info(self) -> str:
        return f"{self.name}-{self.version}.dist-info"

    def _files(self) -> dict[str, str]:
        metadata = (
            f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        )
        metadata += f"Requires-Python: {self.python}\n"
        metadata += "".join(f"Requires-Dist: {each}\n" for each in self.requires)
        points = "".join(f"{key} = {value}\n" for key, value in self.handlers.items())
        wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        files = {f"{name}.py": dedent(text) for name, text in self.modules.items()}
        files[f"{self._info}/METADATA"] = metadata
        files[f"{self._info}/WHEEL"] = f"{wheel}Tag: {self.tag}\n"
        if points:
            files[f"{self._info}/entry_points.txt"] = f"[oip.handlers]\n{points}"
        return files
