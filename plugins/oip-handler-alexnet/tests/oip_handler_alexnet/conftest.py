"""Fixtures of the tests: images, a loaded handler, and requests to it.

Nothing here imports torch or Pillow before a test needs it, so that each module can
skip what is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from oip_handler import (
    DataplaneHandler,
    Datatype,
    InferenceRequest,
    ModelHandler,
    RequestInput,
    ResponseOutput,
    TensorData,
)


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Return a function that makes a different image file for each number and size."""
    from PIL import Image

    def picture(
        number: int = 0, width: int = 300, height: int = 333, kind: str = "PNG"
    ) -> bytes:
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        bands = [
            ((7 + number) * x + 3 * y) % 256,
            x * y % 251,
            (x // (5 + number) + y // 3) % 2 * 255,
        ]
        file = BytesIO()
        Image.fromarray(np.stack(bands, -1).astype(np.uint8)).save(file, kind)
        return file.getvalue()

    return picture


@pytest.fixture(scope="session")
def handler() -> ModelHandler:
    """The handler with the random weights of seed 0."""
    from oip_handler_alexnet import AlexNetHandler

    made = AlexNetHandler(settings=AlexNetHandler.Settings(random_weights=0))
    assert made.model_load("m") is True
    return made


@pytest.fixture(scope="session")
def ask() -> Callable[..., dict[str, ResponseOutput]]:
    """Return a function that calls a handler and returns its outputs by name."""

    def ask(
        handler: ModelHandler,
        elements: list[Any],
        shape: list[int] | None = None,
        datatype: Datatype = Datatype.BYTES,
        name: str = "image",
    ) -> dict[str, ResponseOutput]:
        tensor = RequestInput(
            name=name,
            shape=[len(elements)] if shape is None else shape,
            datatype=datatype,
            data=TensorData(elements),
        )
        request = InferenceRequest(inputs=[tensor])
        answer = DataplaneHandler(handler).infer(request, "m", "3")
        assert ("m", "3") == (answer.model_name, answer.model_version)
        return {output.name: output for output in answer.outputs}

    return ask
