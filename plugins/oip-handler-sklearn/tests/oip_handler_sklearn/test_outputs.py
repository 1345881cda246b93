"""Each kind of estimator has its outputs, with its own results unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from sklearn.decomposition import NMF, SparsePCA  # type: ignore[import-untyped]
from sklearn.ensemble import (  # type: ignore[import-untyped]
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.linear_model import (  # type: ignore[import-untyped]
    LinearRegression,
    LogisticRegression,
)
from sklearn.mixture import GaussianMixture  # type: ignore[import-untyped]
from sklearn.model_selection import GridSearchCV  # type: ignore[import-untyped]
from sklearn.multiclass import OneVsRestClassifier  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import (  # type: ignore[import-untyped]
    KBinsDiscretizer,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.svm import SVC  # type: ignore[import-untyped]

from oip_handler import ResponseOutput
from oip_handler_sklearn import SklearnHandler

Serve = Callable[..., SklearnHandler]
Ask = Callable[..., dict[str, ResponseOutput]]
# an estimator, its target, its methods by output, the first output's datatype
Case = tuple[Any, Any, dict[str, str], str]

X = np.random.default_rng(7).normal(size=(40, 3))
SIGN = (X[:, 0] > 0).astype(np.int64)
SIGNS = (X[:, :2] > 0).astype(np.int64)
TARGET = X @ [1.0, 2.0, 3.0]
TARGETS = np.c_[TARGET, X[:, 0]]
LABEL, PREDICTION = {"label": "predict"}, {"prediction": "predict"}
BOTH = {"label": "predict", "probabilities": "predict_proba"}
TRANSFORM = {"transform": "transform"}


def pipeline() -> Any:
    """Return a scaler before a classifier."""
    return make_pipeline(StandardScaler(), LogisticRegression())


def search() -> Any:
    """Return a search over such a pipeline."""
    return GridSearchCV(pipeline(), {"logisticregression__C": [0.1, 1.0]}, cv=2)


def float32() -> Any:
    """Return a transformer that gives FP32 for any input."""
    bins = {"strategy": "uniform", "subsample": None}
    return KBinsDiscretizer(3, encode="ordinal", dtype=np.float32, **bins)


def data_frame() -> Any:
    """Return a transformer that gives a DataFrame in place of an array."""
    return StandardScaler().set_output(transform="pandas")


CASES: dict[str, Case] = {
    "int labels": (LogisticRegression(), SIGN, BOTH, "INT64"),
    "float labels": (LogisticRegression(), SIGN / 1.0, BOTH, "FP64"),
    "bool labels": (LogisticRegression(), SIGN > 0, BOTH, "BOOL"),
    "text labels": (LogisticRegression(), np.array(["nö", "ja"])[SIGN], BOTH, "BYTES"),
    "no probabilities": (SVC(), SIGN, LABEL, "INT64"),
    "pipeline": (pipeline(), SIGN, BOTH, "INT64"),
    "search": (search(), SIGN, BOTH, "INT64"),
    "label columns": (RandomForestClassifier(3), SIGNS, LABEL, "INT64"),
    "label indicator": (OneVsRestClassifier(SVC()), SIGNS, LABEL, "INT64"),
    "regressor": (LinearRegression(), TARGET, PREDICTION, "FP64"),
    "regressor of two": (
        LinearRegression(),
        TARGETS,
        PREDICTION,
        "FP64",
    ),
    "clusterer": (KMeans(3, n_init=1, random_state=0), None, LABEL, "INT32"),
    "mixture": (GaussianMixture(2, random_state=0), None, BOTH, "INT64"),
    "outliers": (IsolationForest(n_estimators=5, random_state=0), None, LABEL, "INT64"),
    "transformer": (StandardScaler(), None, TRANSFORM, "FP64"),
    "FP32 transformer": (float32(), None, TRANSFORM, "FP32"),
    "wider transformer": (PolynomialFeatures(2), None, TRANSFORM, "FP64"),
    "DataFrame transformer": (data_frame(), None, TRANSFORM, "FP64"),
    "squeezing transformer": (SparsePCA(2, max_iter=5), None, TRANSFORM, "FP64"),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def as_sent(array: NDArray[Any]) -> NDArray[Any]:
    """Return text as the UTF-8 bytes of the protocol, and any other array unchanged."""
    if array.dtype.kind != "U":
        return array
    return np.char.encode(array, "utf-8").astype(object)


@each_case
def test_answers_are_the_estimators_own(serve: Serve, ask: Ask, case: Case) -> None:
    """Every output is its method's result, to the bit, in its dtype and shape."""
    estimator, target, methods, _ = case
    estimator.fit(X, target)

    answer = ask(serve(estimator), x=X)

    assert list(methods) == list(answer)
    for name, method in methods.items():
        expected = as_sent(np.asarray(getattr(estimator, method)(X)))
        np.testing.assert_array_equal(expected, answer[name].as_numpy(), strict=True)


@each_case
def test_metadata_describes_inputs_and_outputs(serve: Serve, case: Case) -> None:
    """The description has one FP64 input `x`, [-1, features], and the outputs."""
    estimator, target, methods, datatype = case

    metadata = serve(estimator.fit(X, target)).model_metadata("m")

    assert (metadata.name, metadata.platform) == ("m", "sklearn")
    assert [
        (tensor.name, tensor.datatype.value, tensor.shape) for tensor in metadata.inputs
    ] == [("x", "FP64", [-1, 3])]
    assert list(methods) == [tensor.name for tensor in metadata.outputs]
    assert datatype == metadata.outputs[0].datatype.value


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@each_case
def test_answers_fit_the_metadata(
    serve: Serve, ask: Ask, case: Case, dtype: type[np.generic]
) -> None:
    """An answer has the described datatype and shape, whatever the input's datatype.

    An estimator that was fitted on FP32 gives FP32 for FP32 and FP64 for FP64.
    """
    estimator, target, _, _ = case
    handler = serve(estimator.fit(X.astype(np.float32), target))

    answer = ask(handler, x=X.astype(dtype))

    assert [
        (tensor.name, tensor.datatype, tensor.shape[1:])
        for tensor in handler.model_metadata("m").outputs
    ] == [
        (tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in answer.values()
    ]


def test_fp32_reaches_the_estimator_as_fp32(serve: Serve, ask: Ask) -> None:
    """An estimator that accepts any float computes in the one that the client sent."""
    estimator = StandardScaler().fit(X)
    single = X.astype(np.float32)

    answer = ask(serve(estimator), x=single)["transform"].as_numpy()

    expected = estimator.transform(single)
    assert expected.dtype == np.float32
    assert np.any(expected != estimator.transform(X))
    np.testing.assert_array_equal(expected, answer)


@pytest.mark.parametrize("asked", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize(
    ("fitted", "datatype"), [(np.float64, "FP64"), (np.float32, "FP32")]
)
@pytest.mark.parametrize(
    "estimator",
    [KMeans(3, n_init=1, random_state=0), NMF(2, init="random", random_state=0)],
    ids=["KMeans", "NMF"],
)
def test_numbers_become_the_float_of_the_fit(
    serve: Serve, ask: Ask, estimator: Any, fitted: Any, datatype: str, asked: Any
) -> None:
    """They are converted for an estimator that accepts only the float of its fit."""
    rows = np.abs(X * 5).round()
    estimator.fit(rows.astype(fitted))
    handler = serve(estimator)

    (tensor,) = ask(handler, x=rows.astype(asked)).values()

    assert datatype == handler.model_metadata("m").inputs[0].datatype.value
    method = getattr(estimator, "predict", estimator.transform)
    np.testing.assert_array_equal(method(rows.astype(fitted)), tensor.as_numpy())
