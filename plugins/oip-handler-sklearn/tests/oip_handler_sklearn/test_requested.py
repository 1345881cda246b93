"""Which outputs are computed, and results that are not plain arrays of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer  # type: ignore[import-untyped]
from sklearn.naive_bayes import GaussianNB  # type: ignore[import-untyped]
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder  # type: ignore[import-untyped]
from typing_extensions import override

from oip_handler import HandlerFault, InvalidRequest, ResponseOutput
from oip_handler_sklearn import SklearnHandler
from oip_handler_sklearn.handlers import EstimatorHandler

Serve = Callable[..., SklearnHandler]
Ask = Callable[..., dict[str, ResponseOutput]]

ROWS = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [3.0, 4.0]])
TOWNS = np.array([["oslo"], ["rome"], ["oslo"]], dtype=object)


class Recording(GaussianNB):  # type: ignore[misc]  # scikit-learn ships no types
    """A classifier that records the calls of its methods from outside."""

    calls: list[str]

    def predict(self, rows: Any) -> NDArray[Any]:
        """Record the call and predict."""
        self.calls.append("predict")
        return np.asarray(super().predict(rows))

    def predict_proba(self, rows: Any) -> NDArray[Any]:
        """Record the call and predict."""
        self.calls.append("predict_proba")
        return np.asarray(super().predict_proba(rows))


class RecordingHandler(EstimatorHandler):
    """A handler with a recording classifier."""

    @override
    def estimator(self) -> Any:
        self.recording = Recording().fit(ROWS, [0, 0, 1, 1])
        self.recording.calls = []
        return self.recording


@pytest.mark.parametrize(
    ("wanted", "calls", "names"),
    [
        ([], ["predict", "predict_proba"], ["label", "probabilities"]),
        (["label"], ["predict"], ["label"]),
        (["probabilities"], ["predict_proba"], ["probabilities"]),
        (
            ["probabilities", "label", "label"],
            ["predict_proba", "predict"],
            ["probabilities", "label"],
        ),
    ],
    ids=["all", "label", "probabilities", "twice"],
)
def test_only_requested_outputs_are_computed(
    ask: Ask, wanted: list[str], calls: list[str], names: list[str]
) -> None:
    """Other outputs are neither computed nor sent; a request without any gets all."""
    handler = RecordingHandler()
    handler.model_load("m")
    handler.recording.calls.clear()

    answer = ask(handler, *wanted, x=ROWS)

    assert names == list(answer)
    assert calls == handler.recording.calls


def test_unknown_output_is_refused(serve: Serve, ask: Ask) -> None:
    """The error names the unknown output and the available ones."""
    handler = serve(GaussianNB().fit(ROWS, [0, 0, 1, 1]))

    with pytest.raises(
        InvalidRequest,
        match="found the requested output 'score', expected 'label' or 'probabilities'",
    ):
        ask(handler, "label", "score", x=ROWS)


def test_sparse_results_come_back_dense(serve: Serve, ask: Ask) -> None:
    """A sparse matrix is sent as the dense tensor of the same values."""
    estimator = OneHotEncoder().fit(TOWNS)

    answer = ask(serve(estimator), x=TOWNS)["transform"].as_numpy()

    assert hasattr(estimator.transform(TOWNS), "toarray")
    expected = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(expected, answer, strict=True)


def test_estimator_may_reject_the_trial_row(serve: Serve) -> None:
    """If a load cannot measure an output, its description leaves the sizes open."""
    handler = serve(OneHotEncoder().fit(TOWNS))

    (tensor,) = handler.model_metadata("m").outputs

    assert (
        tensor.name,
        tensor.datatype.value,
        tensor.shape,
    ) == ("transform", "FP64", [-1, -1])


def test_trial_rows_give_no_warning(serve: Serve) -> None:
    """Warnings about the arithmetic of trial rows at load are suppressed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handler = serve(FunctionTransformer(np.arctanh).fit(ROWS / 10))

    (tensor,) = handler.model_metadata("m").outputs
    assert tensor.shape == [-1, 2]


def test_numbers_are_not_copied(serve: Serve, ask: Ask) -> None:
    """An estimator that returns its input answers with the request's memory."""
    answer = ask(serve(FunctionTransformer().fit(ROWS)), x=ROWS)["transform"]

    assert np.shares_memory(ROWS, answer.as_numpy())


def test_mixed_result_is_a_handler_fault(serve: Serve, ask: Ask) -> None:
    """A result that mixes text and numbers is not blamed on the client."""
    people = pd.DataFrame({"town": ["oslo", "rome"], "age": [1.5, 2.5]})
    handler = serve(
        make_column_transformer(("passthrough", ["town", "age"])).fit(people)
    )

    with pytest.raises(
        HandlerFault, match="output 'transform': element 1 is the float"
    ):
        ask(handler, town=np.array(["oslo"]), age=np.array([1.5]))
