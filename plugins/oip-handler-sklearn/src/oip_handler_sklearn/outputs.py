"""The output side: what an estimator offers, and its results as protocol tensors."""

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

__all__ = ["Output", "outputs_of", "requested"]

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
        """The description; TypeError for a dtype that the protocol cannot carry."""
        datatype = ResponseOutput.from_numpy("", np.empty(0, self.dtype)).datatype
        return MetadataTensor(name=self.name, datatype=datatype, shape=list(self.shape))

    def measured(self, sample: Any) -> Output:
        """The same output with the dtype and shape that the method gives for a sample.

        Raises whatever the estimator raises for a sample that it does not take.
        """
        with np.errstate(all="ignore"):
            array = _dense(self.call(sample))
        return replace(self, dtype=array.dtype, shape=(-1, *array.shape[1:]))

    def answer(self, rows: Any) -> ResponseOutput:
        """Call the method; a narrower number comes back in the described dtype.

        Raises HandlerFault where the result is no tensor of the protocol.
        """
        array = _dense(self.call(rows))
        if self.dtype.kind in "biuf" and np.can_cast(array.dtype, self.dtype):
            array = array.astype(self.dtype, copy=False)
        try:
            return ResponseOutput.from_numpy(self.name, array)
        except TypeError as error:
            raise HandlerFault(f"output '{self.name}': {error}") from error


def outputs_of(estimator: Any) -> tuple[Output, ...]:
    """What a fitted estimator offers, as described before any measuring.

    Labels (and probabilities) for classifiers, clusterers and outlier detectors, a
    prediction for regressors, a transform for what cannot predict. Raises ValueError
    where there is nothing to serve.
    """
    if hasattr(estimator, "predict"):
        if _kind(estimator) in (None, "regressor"):
            return (Output("prediction", estimator.predict, _FLOAT, (-1,)),)
        return _label_outputs(estimator)
    if hasattr(estimator, "transform"):
        return (Output("transform", estimator.transform, _FLOAT, (-1, -1)),)
    raise ValueError(
        f"{type(estimator).__name__} has neither predict nor transform, "
        "expected an estimator with one of them"
    )


def requested(payload: InferenceRequest, outputs: Mapping[str, Output]) -> list[Output]:
    """The outputs that a request asks for, each once; all where it asks for none.

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


def _label_outputs(estimator: Any) -> tuple[Output, ...]:
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


def _kind(estimator: Any) -> str | None:
    """'classifier', 'regressor', …; tags came with scikit-learn 1.6."""
    if not hasattr(estimator, "__sklearn_tags__"):
        return getattr(estimator, "_estimator_type", None)
    from sklearn.utils import get_tags  # type: ignore[import-untyped]  # has no types

    kind: str | None = get_tags(estimator).estimator_type
    return kind


def _dense(result: Any) -> Array:
    """An array from what an estimator gives: array, sparse matrix or DataFrame."""
    return np.asarray(result.toarray() if hasattr(result, "toarray") else result)
