"""From a file to a model that answers, or to an error that names what is wrong."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.cluster import DBSCAN  # type: ignore[import-untyped]
from sklearn.exceptions import NotFittedError  # type: ignore[import-untyped]
from sklearn.linear_model import LinearRegression  # type: ignore[import-untyped]
from sklearn.naive_bayes import GaussianNB  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import (  # type: ignore[import-untyped]
    FunctionTransformer,
)

from oip_handler import ModelNotReady, ResponseOutput
from oip_handler_sklearn import SklearnHandler

Serve = Callable[..., SklearnHandler]
Ask = Callable[..., dict[str, ResponseOutput]]


def handler_of(path: Path, **more: Any) -> SklearnHandler:
    """Return the unloaded handler for a file."""
    return SklearnHandler(settings=SklearnHandler.Settings(path=path, **more))


@pytest.mark.parametrize(
    "suffix", [".joblib", ".pkl", ".pickle", ".skops", ".JOBLIB", ".SKOPS"]
)
def test_every_suffix_loads(serve: Serve, ask: Ask, flowers: Any, suffix: str) -> None:
    """An estimator answers the same from a file of any of the formats."""
    estimator = GaussianNB().fit(flowers.data, flowers.target)

    answer = ask(serve(estimator, suffix), x=flowers.data)

    np.testing.assert_array_equal(
        estimator.predict(flowers.data), answer["label"].as_numpy()
    )
    expected = estimator.predict_proba(flowers.data)
    np.testing.assert_array_equal(expected, answer["probabilities"].as_numpy())


@pytest.mark.parametrize("suffix", [".joblib", ".skops"])
def test_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    """The load fails, and the error has the path."""
    path = tmp_path / f"absent{suffix}"

    with pytest.raises(FileNotFoundError, match=f"no model file {path}"):
        handler_of(path).model_load("m")


def test_directory_stands_for_its_one_file(tmp_path: Path, flowers: Any) -> None:
    """The one model file of a directory is loaded, even if its name has a dot."""
    for path in (tmp_path / "fraud", tmp_path / "fraud.v2"):
        path.mkdir()
        estimator = GaussianNB().fit(flowers.data, flowers.target)
        joblib.dump(estimator, path / "any.joblib")
        (path / "README.md").write_text("not a model")

        assert handler_of(path).model_load("m")


def test_trusted_types_need_skops_in_a_directory_too(
    tmp_path: Path, flowers: Any
) -> None:
    """A file that they cannot restrict is refused when the directory is read."""
    joblib.dump(GaussianNB().fit(flowers.data, flowers.target), tmp_path / "m.joblib")

    with pytest.raises(ValueError, match=r"'trusted' cannot restrict .*m\.joblib"):
        handler_of(tmp_path, trusted=["x.Y"]).model_load("m")


def test_empty_directory_is_a_missing_file(tmp_path: Path) -> None:
    """A directory without a model file is refused like a missing file."""
    path = tmp_path / "model.joblib"
    path.mkdir()

    with pytest.raises(FileNotFoundError, match=f"no model file {path}"):
        handler_of(path).model_load("m")


@pytest.mark.parametrize("suffix", [".joblib", ".pkl", ".skops"])
@pytest.mark.parametrize("content", [b"", b"not a model"], ids=["empty", "text"])
def test_broken_file_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    """The error of the reading library comes with the file's path."""
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=f"^{path} cannot be read: [A-Z]") as caught:
        handler_of(path).model_load("m")

    assert type(caught.value.__cause__).__name__ in str(caught.value)


def test_untrusted_types_are_named(serve: Serve) -> None:
    """A skops file with untrusted types is refused, and the error names only those."""
    steps = FunctionTransformer(operator.neg), FunctionTransformer(statistics.mean)
    estimator = make_pipeline(*steps).fit(np.ones((2, 2)))

    with pytest.raises(ValueError, match="not trusted") as unknown:
        serve(estimator, ".skops")
    with pytest.raises(ValueError, match="not trusted") as half_known:
        serve(estimator, ".skops", trusted=["statistics.mean"])

    assert "not trusted: _operator.neg, statistics.mean; " in str(unknown.value)
    assert "not trusted: _operator.neg; " in str(half_known.value)


def test_trusted_types_load(serve: Serve, ask: Ask) -> None:
    """A skops file loads if the settings trust its types."""
    rows = np.array([[1.0, -2.0]])
    estimator = FunctionTransformer(operator.neg).fit(rows)

    handler = serve(estimator, ".skops", trusted=["_operator.neg"])

    np.testing.assert_array_equal(-rows, ask(handler, x=rows)["transform"].as_numpy())


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "path"),
        ({"path": "model.onnx"}, "found 'model.onnx', expected one of .joblib"),
        (
            {"path": "m.pkl", "trusted": ["a.B"]},
            "'trusted' cannot restrict a .pkl file",
        ),
        ({"path": "m.pkl", "trust": ["a.B"]}, "trust"),
    ],
    ids=["no path", "suffix", "trusted pickle", "unknown key"],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], fault: str) -> None:
    """A fault in the settings is found before any file is opened."""
    with pytest.raises(ValidationError, match=fault):
        SklearnHandler.Settings(**settings)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        ({"a": 1}, ValueError, "found an object of type dict, expected an estimator"),
        (LinearRegression(), NotFittedError, "LinearRegression instance is not fitted"),
        (DBSCAN().fit([[0.0]]), ValueError, "DBSCAN has neither predict nor transform"),
    ],
    ids=["dict", "not fitted", "nothing to serve"],
)
def test_unusable_estimator_fails_at_load(
    serve: Serve, content: Any, error: type[Exception], text: str
) -> None:
    """A readable file without a usable estimator fails the load, not the requests."""
    with pytest.raises(error, match=text):
        serve(content)


def test_second_load_reads_the_file_again(serve: Serve, ask: Ask) -> None:
    """After a reload the answers are those of the current file."""
    rows = np.array([[0.0], [1.0]])
    handler = serve(LinearRegression().fit(rows, [0.0, 1.0]))
    joblib.dump(LinearRegression().fit(rows, [0.0, 7.0]), handler.settings.path)

    before = ask(handler, x=rows)["prediction"].as_numpy()
    handler.model_load("m")
    after = ask(handler, x=rows)["prediction"].as_numpy()

    np.testing.assert_allclose([0.0, 1.0], before, atol=1e-12)
    np.testing.assert_allclose([0.0, 7.0], after, atol=1e-12)


def test_unloaded_model_is_not_ready(serve: Serve, ask: Ask) -> None:
    """After the unload, requests and metadata raise ModelNotReady."""
    handler = serve(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]))

    handler.model_unload("m")

    with pytest.raises(ModelNotReady, match="'m' is not loaded"):
        ask(handler, x=np.array([[0.0]]))
    with pytest.raises(ModelNotReady, match="'m' is not loaded"):
        handler.model_metadata("m")
