"""The input side: from a request's tensors to what an estimator's methods take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oip_handler import (
    Datatype,
    InferenceRequest,
    InvalidRequest,
    MetadataTensor,
    RequestInput,
)

__all__ = ["Features"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Features:
    """What an estimator was fitted on.

    `count` is its number of columns, None where the estimator does not tell. `names`
    are their names, none where it was fitted on a bare array. `text` is true for
    documents in place of columns. `dtype` is the one kind of number that it takes,
    None where it takes any.
    """

    count: int | None
    names: tuple[str, ...]
    text: bool
    dtype: np.dtype[Any] | None = None

    @classmethod
    def of(cls, estimator: Any) -> Features:
        """Read a fitted estimator's `n_features_in_` and `feature_names_in_`."""
        count = getattr(estimator, "n_features_in_", None)
        return cls(
            count=count,
            names=tuple(getattr(estimator, "feature_names_in_", ())),
            text=count is None and hasattr(_first_step(estimator), "build_analyzer"),
        )

    def metadata(self) -> MetadataTensor:
        """The input as one tensor: a row for each sample, a column for each feature."""
        if self.text:
            return MetadataTensor(name="x", datatype=Datatype.BYTES, shape=[-1])
        shape = [-1, -1 if self.count is None else self.count]
        only_single = self.dtype == np.float32
        datatype = Datatype.FP32 if only_single else Datatype.FP64
        return MetadataTensor(name="x", datatype=datatype, shape=shape)

    def sample(self, dtype: np.dtype[Any]) -> Any:
        """Two made-up rows to try an estimator on: documents, or ones of `dtype`.

        Two, because some estimators give a single row back without its first axis.
        """
        if self.text:
            return np.array(["text", "text"], dtype=object)
        return self._table(np.ones((2, self.count or 1), dtype))

    def read(self, payload: InferenceRequest) -> Any:
        """The rows of a request: an array, or a DataFrame where the columns have names.

        Takes one tensor of any name, or one tensor for each named column. Raises
        InvalidRequest where the inputs or their shapes do not fit the estimator.
        """
        found = sorted(tensor.name for tensor in payload.inputs)
        if self.names and found == sorted(self.names):
            return self._from_columns(payload.inputs)
        if len(payload.inputs) != 1:
            raise InvalidRequest(
                f"found {len(found)} inputs ({_listed(found)}), "
                f"expected {self._expected()}"
            )
        return self._from_tensor(payload.inputs[0])

    def _from_tensor(self, tensor: RequestInput) -> Any:
        if self.text and tensor.datatype == Datatype.BYTES:
            return self._column(tensor)
        fits = len(tensor.shape) == 2 and self.count in (None, tensor.shape[1])
        if self.text or not fits:
            raise InvalidRequest(
                f"input '{tensor.name}' is {tensor.datatype.value} of the shape "
                f"{tensor.shape}, expected {self._expected()}"
            )
        return self._table(self._values(tensor))

    def _from_columns(self, inputs: Sequence[RequestInput]) -> Any:
        columns = {tensor.name: self._column(tensor) for tensor in inputs}
        if len({len(column) for column in columns.values()}) > 1:
            rows = ", ".join(f"'{name}' {len(columns[name])}" for name in self.names)
            raise InvalidRequest(
                f"the columns have different numbers of rows ({rows}), "
                "expected the same number in each"
            )
        return _frame(columns, self.names)

    def _column(self, tensor: RequestInput) -> Array:
        """The elements of a tensor of the shape [-1] or [-1, 1] as [-1]."""
        if not tensor.shape or tensor.shape[1:] not in ([], [1]):
            raise InvalidRequest(
                f"input '{tensor.name}' has the shape {tensor.shape}, "
                "expected [-1] or [-1, 1]"
            )
        return self._values(tensor).ravel()

    def _values(self, tensor: RequestInput) -> Array:
        """The tensor as numbers that the estimator knows, or BYTES as `str` objects."""
        array = tensor.as_numpy()
        if tensor.datatype == Datatype.BYTES:
            return _decoded(tensor.name, array)
        bfloat16 = tensor.datatype == Datatype.BF16  # which scikit-learn does not know
        known = np.dtype(np.float32) if bfloat16 else array.dtype
        return array.astype(self.dtype or known, copy=False)

    def _table(self, array: Array) -> Any:
        return _frame(array, self.names) if self.names else array

    def _expected(self) -> str:
        if self.text:
            return "one BYTES tensor of the shape [-1]"
        one = f"one tensor of the shape {self.metadata().shape}"
        if not self.names:
            return one
        return f"{one} or one tensor for each column ({_listed(self.names)})"


def _first_step(estimator: Any) -> Any:
    """The estimator that meets the input first, inside searches and pipelines."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if hasattr(estimator, "steps"):
        return _first_step(estimator.steps[0][1])
    return estimator


def _frame(data: Any, names: Sequence[str]) -> Any:
    """A DataFrame: column selectors want the names that the estimator was fitted on."""
    import pandas as pd  # type: ignore[import-untyped]  # it ships no types

    return pd.DataFrame(data, columns=list(names))


def _decoded(name: str, array: Array) -> Array:
    text = np.empty(array.size, dtype=object)
    try:
        text[:] = [value.decode() for value in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input '{name}' is not UTF-8: {error}") from error
    return text.reshape(array.shape)


def _listed(names: Sequence[str]) -> str:
    """Names for an error text: the first five, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
