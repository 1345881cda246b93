"""The input side: from a request's tensors to the argument of an estimator."""

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
    """The features that an estimator was fitted on.

    `count` is the number of columns, None if the estimator does not say. `names` are
    the names of columns, empty if it was fitted on a bare array. `text` is true for
    documents in place of columns. `dtype` is the one kind of number that the estimator
    takes, None if it takes any.
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
            text=count is None
            and hasattr(_find_first_step(estimator), "build_analyzer"),
        )

    def metadata(self) -> MetadataTensor:
        """Describe the input as one tensor: a row a sample, a column a feature."""
        if self.text:
            return MetadataTensor(name="x", datatype=Datatype.BYTES, shape=[-1])
        shape = [-1, -1 if self.count is None else self.count]
        only_single = self.dtype == np.float32
        datatype = Datatype.FP32 if only_single else Datatype.FP64
        return MetadataTensor(name="x", datatype=datatype, shape=shape)

    def sample(self, dtype: np.dtype[Any]) -> Any:
        """Make two rows to try an estimator on: documents, or ones of `dtype`.

        Two, because some estimators return a single row without its first axis.
        """
        if self.text:
            return np.array(["text", "text"], dtype=object)
        return self._make_table(np.ones((2, self.count or 1), dtype))

    def read(self, payload: InferenceRequest) -> Any:
        """Return a request's rows: an array, or a DataFrame if the columns have names.

        Takes one tensor of any name, or one tensor for each named column. Raises
        InvalidRequest if the inputs or their shapes do not fit the estimator.
        """
        names = sorted(tensor.name for tensor in payload.inputs)
        if self.names and names == sorted(self.names):
            return self._from_columns(payload.inputs)
        if len(payload.inputs) != 1:
            raise InvalidRequest(
                f"found {len(names)} inputs ({_quote(names)}), "
                f"expected {self._describe_expected()}"
            )
        return self._from_tensor(payload.inputs[0])

    def _from_tensor(self, tensor: RequestInput) -> Any:
        if self.text and tensor.datatype == Datatype.BYTES:
            return self._read_column(tensor)
        fits = len(tensor.shape) == 2 and self.count in (None, tensor.shape[1])
        if self.text or not fits:
            raise InvalidRequest(
                f"input '{tensor.name}' is {tensor.datatype.value} of the shape "
                f"{tensor.shape}, expected {self._describe_expected()}"
            )
        return self._make_table(self._read_values(tensor))

    def _from_columns(self, inputs: Sequence[RequestInput]) -> Any:
        columns = {tensor.name: self._read_column(tensor) for tensor in inputs}
        if len({len(column) for column in columns.values()}) > 1:
            rows = ", ".join(f"'{name}' {len(columns[name])}" for name in self.names)
            raise InvalidRequest(
                f"the columns have different numbers of rows ({rows}), "
                "expected the same number in each"
            )
        return _make_frame(columns, self.names)

    def _read_column(self, tensor: RequestInput) -> Array:
        """Return the elements of a tensor of the shape [-1] or [-1, 1] as [-1]."""
        if not tensor.shape or tensor.shape[1:] not in ([], [1]):
            raise InvalidRequest(
                f"input '{tensor.name}' has the shape {tensor.shape}, "
                "expected [-1] or [-1, 1]"
            )
        return self._read_values(tensor).ravel()

    def _read_values(self, tensor: RequestInput) -> Array:
        """Return numbers of a kind that scikit-learn knows, or BYTES as `str`."""
        array = tensor.as_numpy()
        if tensor.datatype == Datatype.BYTES:
            return _decode(tensor.name, array)
        bfloat16 = tensor.datatype == Datatype.BF16  # which scikit-learn does not know
        known = np.dtype(np.float32) if bfloat16 else array.dtype
        return array.astype(self.dtype or known, copy=False)

    def _make_table(self, array: Array) -> Any:
        return _make_frame(array, self.names) if self.names else array

    def _describe_expected(self) -> str:
        if self.text:
            return "one BYTES tensor of the shape [-1]"
        one = f"one tensor of the shape {self.metadata().shape}"
        if not self.names:
            return one
        return f"{one} or one tensor for each column ({_quote(self.names)})"


def _find_first_step(estimator: Any) -> Any:
    """Return the estimator that gets the input first, in searches and pipelines."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if hasattr(estimator, "steps"):
        return _find_first_step(estimator.steps[0][1])
    return estimator


def _make_frame(data: Any, names: Sequence[str]) -> Any:
    """Make a DataFrame: column selectors need the names from the fit."""
    import pandas as pd  # type: ignore[import-untyped]  # it ships no types

    return pd.DataFrame(data, columns=list(names))


def _decode(name: str, array: Array) -> Array:
    text = np.empty(array.size, dtype=object)
    try:
        text[:] = [value.decode() for value in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input '{name}' is not UTF-8: {error}") from error
    return text.reshape(array.shape)


def _quote(names: Sequence[str]) -> str:
    """Return names for an error text: the first five, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
