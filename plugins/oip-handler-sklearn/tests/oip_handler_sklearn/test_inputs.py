"""The tensors that a model accepts, and the errors for those that it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]
    TfidfVectorizer,
)
from sklearn.linear_model import (  # type: ignore[import-untyped]
    LinearRegression,
    LogisticRegression,
)
from sklearn.model_selection import GridSearchCV  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import OneHotEncoder  # type: ignore[import-untyped]

from oip_handler import InvalidRequest, ResponseOutput
from oip_handler_sklearn import SklearnHandler

Serve = Callable[..., SklearnHandler]
Ask = Callable[..., dict[str, ResponseOutput]]

ROWS = np.array([[0.0, 1.0], [1.0, 0.5], [2.0, 8.0], [3.0, 4.0]])
TARGET = np.array([1.0, 2.0, 7.0, 5.0])
PEOPLE = pd.DataFrame(
    {"age": [20, 30, 40, 50], "town": ["oslo", "rome", "oslo", "rome"]}
)
DOCUMENTS = np.array(["a good day", "a bad day", "good", "bad"])
MOODS = np.array(["glad", "sad", "glad", "sad"])


def people_model() -> Any:
    """Return a regressor whose pipeline selects columns by name, one of them text."""
    encode = make_column_transformer(
        (OneHotEncoder(), ["town"]), ("passthrough", ["age"])
    )
    return make_pipeline(encode, LinearRegression()).fit(PEOPLE, TARGET)


def mood_model() -> Any:
    """Return a search over a pipeline that starts with documents."""
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    grid = {"logisticregression__C": [1.0, 2.0]}
    return GridSearchCV(pipeline, grid, cv=2).fit(DOCUMENTS, MOODS)


@pytest.mark.parametrize(
    "dtype", ["f8", "f4", "f2", ml_dtypes.bfloat16, "i8", "i4", "u1", "?"]
)
def test_every_numeric_datatype_is_accepted(serve: Serve, ask: Ask, dtype: Any) -> None:
    """Numbers of any datatype give the same answer as the same numbers in FP64."""
    estimator = LinearRegression().fit(ROWS, TARGET)
    rows = ROWS.astype(dtype)

    answer = ask(serve(estimator), x=rows)["prediction"].as_numpy()

    np.testing.assert_allclose(estimator.predict(rows.astype("f8")), answer, rtol=1e-6)


def test_single_tensor_may_have_any_name(serve: Serve, ask: Ask) -> None:
    """An input named 'input-0' works like one named 'x'."""
    estimator = LinearRegression().fit(ROWS, TARGET)

    answer = ask(serve(estimator), **{"input-0": ROWS})["prediction"]

    np.testing.assert_array_equal(estimator.predict(ROWS), answer.as_numpy())


@pytest.mark.parametrize(
    "shape", [(4, 3), (4, 1), (4,), (), (1, 4, 2)], ids=["3", "1", "1-D", "0-D", "3-D"]
)
def test_wrong_shape_is_refused(serve: Serve, ask: Ask, shape: tuple[int, ...]) -> None:
    """For a tensor that is not rows of the right width, the error has both shapes."""
    handler = serve(LinearRegression().fit(ROWS, TARGET))

    with pytest.raises(InvalidRequest) as caught:
        ask(handler, x=np.zeros(shape))

    assert (
        f"input 'x' is FP64 of the shape {list(shape)}, "
        "expected one tensor of the shape [-1, 2]"
    ) == str(caught.value)


def test_several_tensors_need_named_columns(serve: Serve, ask: Ask) -> None:
    """A model without column names accepts one tensor; the error lists all of them."""
    handler = serve(LinearRegression().fit(ROWS, TARGET))

    with pytest.raises(
        InvalidRequest, match=r"found 2 inputs \('x', 'y'\), expected one tensor"
    ):
        ask(handler, x=ROWS, y=ROWS)


def test_values_rejected_by_the_estimator_are_a_client_fault(
    serve: Serve, ask: Ask
) -> None:
    """The estimator's own ValueError reaches the host, which answers 400."""
    handler = serve(LinearRegression().fit(ROWS, TARGET))

    with pytest.raises(ValueError, match="NaN"):
        ask(handler, x=np.full((1, 2), np.nan))


@pytest.mark.parametrize("shape", [(4,), (4, 1)], ids=["1-D", "one column"])
def test_named_columns_may_be_separate_tensors(
    serve: Serve, ask: Ask, shape: tuple[int, ...]
) -> None:
    """One tensor for each column makes the DataFrame of those columns."""
    estimator = people_model()
    town = np.array(PEOPLE["town"].tolist()).reshape(shape)
    age = PEOPLE["age"].to_numpy().reshape(shape)

    answer = ask(serve(estimator), town=town, age=age)["prediction"].as_numpy()

    np.testing.assert_array_equal(estimator.predict(PEOPLE), answer)


def test_named_columns_may_come_in_any_order(serve: Serve, ask: Ask) -> None:
    """The estimator gets the columns in the order of its fit, not of the request."""
    frame = pd.DataFrame(ROWS, columns=["b", "a"])
    estimator = LinearRegression().fit(frame, TARGET)

    answer = ask(serve(estimator), a=ROWS[:, 1], b=ROWS[:, 0])["prediction"]

    np.testing.assert_array_equal(estimator.predict(frame), answer.as_numpy())


def test_named_columns_may_come_as_one_tensor(serve: Serve, ask: Ask) -> None:
    """One tensor has the columns in the order of the fit, and no warning is given."""
    frame = pd.DataFrame(ROWS, columns=["b", "a"])
    estimator = LinearRegression().fit(frame, TARGET)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = ask(serve(estimator), x=ROWS)["prediction"].as_numpy()

    np.testing.assert_array_equal(estimator.predict(frame), answer)


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        (
            {"age": [1.0], "city": ["oslo"]},
            "found 2 inputs ('age', 'city'), expected one tensor of the shape [-1, 2] "
            "or one tensor for each column ('age', 'town')",
        ),
        (
            {"age": [1.0, 2.0], "town": ["oslo"]},
            "the columns have different numbers of rows ('age' 2, 'town' 1), "
            "expected the same number in each",
        ),
        (
            {"age": [[1.0, 2.0]], "town": ["oslo"]},
            "input 'age' has the shape [1, 2], expected [-1] or [-1, 1]",
        ),
    ],
    ids=["wrong name", "uneven", "two-dimensional"],
)
def test_wrong_columns_are_refused(
    serve: Serve, ask: Ask, inputs: dict[str, Any], fault: str
) -> None:
    """The error names columns that do not make up the table, and what was expected."""
    handler = serve(people_model())
    arrays: dict[str, NDArray[Any]] = {k: np.array(v) for k, v in inputs.items()}

    with pytest.raises(InvalidRequest) as caught:
        ask(handler, **arrays)

    assert fault == str(caught.value)


def test_long_lists_of_names_are_cut(serve: Serve, ask: Ask) -> None:
    """An error names five columns and counts the others."""
    names = [f"c{i}" for i in range(8)]
    frame = pd.DataFrame(np.eye(8), columns=names)
    handler = serve(LinearRegression().fit(frame, np.arange(8)))

    with pytest.raises(
        InvalidRequest, match=r"\('c0', 'c1', 'c2', 'c3', 'c4' and 3 more\)$"
    ):
        ask(handler, x=np.eye(3))


@pytest.mark.parametrize("shape", [(4,), (4, 1)], ids=["1-D", "one column"])
def test_documents_are_text(serve: Serve, ask: Ask, shape: tuple[int, ...]) -> None:
    """A model that starts with a text vectorizer has one BYTES element per document."""
    estimator = mood_model()
    handler = serve(estimator)

    answer = ask(handler, x=DOCUMENTS.reshape(shape))["label"].as_numpy()

    (described,) = handler.model_metadata("m").inputs
    assert (described.datatype.value, described.shape) == ("BYTES", [-1])
    expected = estimator.predict(DOCUMENTS).astype("S").astype(object)
    np.testing.assert_array_equal(expected, answer)


@pytest.mark.parametrize(
    ("documents", "fault"),
    [
        (np.ones((2, 2)), "expected one BYTES tensor of the shape [-1]"),
        (np.array([b"caf\xe9"], dtype=object), "input 'x' is not UTF-8: "),
    ],
    ids=["numbers", "latin-1"],
)
def test_input_that_is_no_document_is_refused(
    serve: Serve, ask: Ask, documents: NDArray[Any], fault: str
) -> None:
    """Numbers, and bytes that are not UTF-8, are refused in place of text."""
    handler = serve(mood_model())

    with pytest.raises(InvalidRequest) as caught:
        ask(handler, x=documents)

    assert fault in str(caught.value)
