"""Fixtures of the tests: flowers, loaded handlers, and requests to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_iris  # type: ignore[import-untyped]
from skops import io  # type: ignore[import-untyped]

from oip_handler import (
    DataplaneHandler,
    InferenceRequest,
    ModelHandler,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)
from oip_handler_sklearn import SklearnHandler

Array = NDArray[Any]


@pytest.fixture(scope="session")
def flowers() -> Any:
    """The iris data set: `data` [150, 4] and `target` [150], 0 to 2."""
    return load_iris()


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., SklearnHandler]:
    """Return a function that saves an estimator and returns a loaded handler."""

    def serve(estimator: Any, suffix: str = ".joblib", **more: Any) -> SklearnHandler:
        path = tmp_path / f"model{suffix}"
        dump = io.dump if suffix.lower() == ".skops" else joblib.dump
        dump(estimator, path)
        settings = SklearnHandler.Settings(path=path, **more)
        handler = SklearnHandler(settings=settings)
        assert handler.model_load("m") is True
        return handler

    return serve


def _tensor(name: str, array: Array) -> RequestInput:
    output = ResponseOutput.from_numpy(name, array)
    return RequestInput(**dict(output))


@pytest.fixture
def ask() -> Callable[..., dict[str, ResponseOutput]]:
    """Return a function that calls a handler: arrays in, tensors out, both by name."""

    def ask(
        handler: ModelHandler, *outputs: str, **inputs: Array
    ) -> dict[str, ResponseOutput]:
        request = InferenceRequest(
            inputs=[_tensor(name, np.asarray(array)) for name, array in inputs.items()],
            outputs=[RequestOutput(name=name) for name in outputs] or None,
        )
        answer = DataplaneHandler(handler).infer(request, "m")
        assert len({output.name for output in answer.outputs}) == len(answer.outputs)
        return {output.name: output for output in answer.outputs}

    return ask
