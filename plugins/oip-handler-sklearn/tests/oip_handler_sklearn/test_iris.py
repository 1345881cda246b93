"""The classifier that needs no file, and the rules of the package itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest

from oip_handler import ResponseOutput
from oip_handler_sklearn import IrisHandler, SklearnHandler

Ask = Callable[..., dict[str, ResponseOutput]]


@pytest.fixture
def iris() -> IrisHandler:
    """The handler as the host makes and loads it, without settings."""
    handler = IrisHandler()
    assert handler.model_load("iris") is True
    return handler


def test_iris_knows_the_species(iris: IrisHandler, ask: Ask, flowers: Any) -> None:
    """At least 95 percent of the flowers get their species' name, as UTF-8 text."""
    names = flowers.target_names.astype("S").astype(object)[flowers.target]

    label = ask(iris, x=flowers.data)["label"]

    assert label.datatype.value == "BYTES"
    assert np.mean(names == label.as_numpy()) >= 0.95


def test_iris_probabilities_belong_to_the_label(
    iris: IrisHandler, ask: Ask, flowers: Any
) -> None:
    """Probabilities add up to 1, and the largest one is the label's."""
    answer = ask(iris, x=flowers.data)

    probabilities = answer["probabilities"].as_numpy()
    names = flowers.target_names.astype("S").astype(object)
    np.testing.assert_allclose(np.ones(150), probabilities.sum(axis=1))
    np.testing.assert_array_equal(
        names[probabilities.argmax(axis=1)], answer["label"].as_numpy()
    )


def test_iris_loads_the_same_each_time(
    iris: IrisHandler, ask: Ask, flowers: Any
) -> None:
    """Two loads give the same model, to the bit."""
    again = IrisHandler()
    again.model_load("iris")

    np.testing.assert_array_equal(
        ask(iris, x=flowers.data)["probabilities"].as_numpy(),
        ask(again, x=flowers.data)["probabilities"].as_numpy(),
    )


def test_iris_describes_itself(iris: IrisHandler) -> None:
    """Metadata: four sizes in, the name and three probabilities out."""
    metadata = iris.model_metadata("iris")

    assert [
        (tensor.name, tensor.datatype.value, tensor.shape) for tensor in metadata.inputs
    ] == [("x", "FP64", [-1, 4])]
    assert [
        (tensor.name, tensor.datatype.value, tensor.shape)
        for tensor in metadata.outputs
    ] == [("label", "BYTES", [-1]), ("probabilities", "FP64", [-1, 3])]


def test_package_import_imports_no_model_library() -> None:
    """scikit-learn and its file formats are imported by a load, never before."""
    program = (
        "import sys, oip_handler_sklearn\n"
        "heavy = {'sklearn', 'scipy', 'joblib', 'skops', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "oip_handler_sklearn.IrisHandler().model_load('iris')\n"
        "print('sklearn' in sys.modules, 'skops' in sys.modules)"
    )

    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert run.stdout.splitlines() == ["[]", "True False"]


def test_both_handlers_are_registered() -> None:
    """The entry points that the host discovers are the package's two classes."""
    found = entry_points(group="oip.handlers")

    assert IrisHandler is found["iris"].load()
    assert SklearnHandler is found["sklearn"].load()
