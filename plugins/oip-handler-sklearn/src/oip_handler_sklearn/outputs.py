"""The output side: an estimator's methods, and their results as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oip_handler import (
    HandlerFault,
    InferenceRequest,
    InvalidRequest,
    MetadataTensor,
    ResponseOutput,
)

__all__ = ["Output", "find_outputs", "select_outputs"]

Array = NDArray[Any]
_FLOAT = np.dtype(np.float64)
_INTEGER = np.dtype(np.int64)


@dataclass(frozen=True)
class Output:
    """One method of an estimator as a named tensor of `dtype` and `shape`."""

    name: str
    call: Callable[[Any], Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def metadata(self) -> MetadataTensor:
        """Describe the output; TypeError for a dtype that the protocol cannot carry."""
        datatype = ResponseOutput.from_numpy("", np.empty(0, self.dtype)).datatype
        return MetadataTensor(name=self.name, datatype=datatype, shape=list(self.shape))

    def measure(self, sample: Any) -> Output:
        """Return the output with the dtype and shape that a sample's result has.

        Raises whatever the estimator raises for a sample that it rejects.
        """
        with np.errstate(all="ignore"):
            array = _to_array(self.call(sample))
        return replace(self, dtype=array.dtype, shape=(-1, *array.shape[1:]))

    def answer(self, rows: Any) -> ResponseOutput:
        """Call the method; widen a narrower number to the described dtype.

        Raises HandlerFault if the result is no tensor of the protocol.
        """
        array = _to_array(self.call(rows))
        if self.dtype.kind in "biuf" and np.can_cast(array.dtype, self.dtype):
            array = array.astype(self.dtype, copy=False)
        try:
            return ResponseOutput.from_numpy(self.name, array)
        except TypeError as error:
            raise HandlerFault(f"output '{self.name}': {error}") from error


def find_outputs(estimator: Any) -> tuple[Output, ...]:
    """Return the outputs of a fitted estimator, with dtypes and shapes to be measured.

    Labels (and probabilities) for classifiers, clusterers and outlier detectors, a
    prediction for regressors, a transform for what cannot predict. Raises ValueError
    if there is nothing to serve.
    """
    if hasattr(estimator, "predict"):
        if _find_kind(estimator) in (None, "regressor"):
            return (Output("prediction", estimator.predict, _FLOAT, (-1,)),)
        return _find_label_outputs(estimator)
    if hasattr(estimator, "transform"):
        return (Output("transform", estimator.transform, _FLOAT, (-1, -1)),)
    raise ValueError(
        f"{type(estimator).__name__} has neither predict nor transform, "
        "expected an estimator with one of them"
    )


def select_outputs(
    payload: InferenceRequest, outputs: Mapping[str, Output]
) -> list[Output]:
    """Return the outputs that a request names, each once; all if it names none.

    Raises InvalidRequest for a name that the model does not offer.
    """
    names = dict.fromkeys(output.name for output in payload.outputs or ()) or outputs
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise InvalidRequest(
            f"found the requested output '{unknown[0]}', expected "
            + " or ".join(f"'{name}'" for name in outputs)
        )
    return [outputs[name] for name in names]


def _find_label_outputs(estimator: Any) -> tuple[Output, ...]:
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):  # one array of classes for each column of labels
        shape = (-1, len(classes))
        return (Output("label", estimator.predict, classes[0].dtype, shape),)
    dtype, count = (_INTEGER, -1) if classes is None else (classes.dtype, len(classes))
    label = Output("label", estimator.predict, dtype, (-1,))
    if not hasattr(estimator, "predict_proba"):
        return (label,)
    call = estimator.predict_proba
    return (label, Output("probabilities", call, _FLOAT, (-1, count)))


def _find_kind(estimator: Any) -> str | None:
    """Return 'classifier', 'regressor', …; tags came with scikit-learn 1.6."""
    if not hasattr(estimator, "__sklearn_tags__"):
        return getattr(estimator, "_estimator_type", None)
    from sklearn.utils import get_tags  # type: ignore[import-untyped]  # has no types

    kind: str | None = get_tags(estimator).estimator_type
    return kind


def _to_array(result: Any) -> Array:
    """Return a result as an array: of an array, sparse matrix or DataFrame."""
    return np.asarray(result.toarray() if hasattr(result, "toarray") else result)
