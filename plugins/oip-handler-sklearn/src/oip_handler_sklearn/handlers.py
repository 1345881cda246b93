"""The handlers: an estimator from a file, and the iris classifier."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import override

from oip_handler import (
    InferenceRequest,
    InferenceResponse,
    ModelHandler,
    ModelMetadataResponse,
    ModelNotReady,
    ModelPath,
)
from oip_handler_sklearn.features import Features
from oip_handler_sklearn.files import SUFFIXES, read_estimator
from oip_handler_sklearn.outputs import Output, find_outputs, select_outputs

__all__ = ["EstimatorHandler", "IrisHandler", "SklearnHandler"]


class EstimatorHandler(ModelHandler):
    """A handler of the fitted estimator that `estimator` returns."""

    _model: tuple[Features, dict[str, Output]] | None = None

    @abstractmethod
    def estimator(self) -> Any:
        """Read or make the fitted estimator; called at each load."""

    @override
    def model_load(self, model_name: str) -> bool:
        """Prepare the estimator; any exception says what is wrong with it."""
        estimator = _check_fitted(self.estimator())
        features, outputs = _measure(Features.of(estimator), find_outputs(estimator))
        self._model = features, {output.name: output for output in outputs}
        return True

    @override
    def model_unload(self, model_name: str) -> None:
        """Release the estimator."""
        self._model = None

    @override
    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        """Describe the input `x`, [-1, features], and the estimator's outputs."""
        features, outputs = self._require_model(model_name)
        return ModelMetadataResponse(
            name=model_name,
            platform="sklearn",
            inputs=[features.metadata()],
            outputs=[output.metadata() for output in outputs.values()],
        )

    @override
    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        """Compute the requested outputs, and only those.

        Raises InvalidRequest if inputs or output names do not fit the model; the
        estimator itself raises ValueError for values that it cannot take.
        """
        features, outputs = self._require_model(model_name)
        wanted = select_outputs(payload, outputs)
        rows = features.read(payload)
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            outputs=[output.answer(rows) for output in wanted],
        )

    def _require_model(self, model_name: str) -> tuple[Features, dict[str, Output]]:
        if self._model is None:
            raise ModelNotReady(f"model '{model_name}' is not loaded")
        return self._model


class SklearnHandler(EstimatorHandler):
    """A handler of a scikit-learn estimator from a joblib or skops file."""

    class Settings(BaseModel):
        """The file of the estimator, and the types that it may hold."""

        model_config = ConfigDict(extra="forbid")

        path: ModelPath = Field(
            description="the model file: .joblib, .pkl, .pickle or .skops; or a "
            "directory with one such file"
        )
        trusted: list[str] = Field(
            default=[],
            description="full names of further types that a .skops file may hold",
        )

        @field_validator("path")
        @classmethod
        def _has_known_suffix(cls, path: Path) -> Path:
            directory = not path.suffix or path.is_dir()
            if not directory and path.suffix.lower() not in SUFFIXES:
                expected = ", ".join(SUFFIXES)
                raise ValueError(f"found '{path.name}', expected one of {expected}")
            return path

        @model_validator(mode="after")
        def _trusts_skops_only(self) -> SklearnHandler.Settings:
            suffix = self.path.suffix.lower()
            if self.trusted and suffix in SUFFIXES and suffix != ".skops":
                raise ValueError(
                    f"'trusted' cannot restrict a {suffix} file, expected .skops"
                )
            return self

    def __init__(self, *, settings: Settings) -> None:
        self.settings = settings

    @override
    def estimator(self) -> Any:
        """Read the file; see `read_estimator` for the errors."""
        return read_estimator(self.settings.path, self.settings.trusted)


class IrisHandler(EstimatorHandler):
    """A classifier of iris species by sepal and petal sizes: it needs no file.

    Input [-1, 4] in cm: sepal length, sepal width, petal length, petal width.
    """

    @override
    def estimator(self) -> Any:
        """Fit on the 150 flowers that ship with scikit-learn.

        Naive Bayes has a closed form, so every load gives the same model, and it is
        the classifier that imports fastest: a linear one adds 0.1 s to the load.
        """
        from sklearn.datasets import load_iris  # type: ignore[import-untyped]
        from sklearn.naive_bayes import GaussianNB  # type: ignore[import-untyped]

        iris = load_iris()
        return GaussianNB().fit(iris.data, iris.target_names[iris.target])


def _check_fitted(estimator: Any) -> Any:
    """Return the object if it is a fitted estimator; ValueError otherwise."""
    from sklearn.utils.validation import (  # type: ignore[import-untyped]
        check_is_fitted,
    )

    if not hasattr(estimator, "fit"):
        kind = type(estimator).__name__
        raise ValueError(f"found an object of type {kind}, expected an estimator")
    check_is_fitted(estimator)
    return estimator


def _measure(
    features: Features, outputs: tuple[Output, ...]
) -> tuple[Features, tuple[Output, ...]]:
    """Return both sides of a model with the dtypes and shapes that two rows show.

    Some estimators (KMeans, NMF) take the kind of float that they were fitted on and
    no other. Both sides stay as they are if the estimator rejects the rows in either
    kind, as an encoder does that knows no such category.
    """
    results = {}
    for dtype in (np.dtype(np.float64), np.dtype(np.float32)):
        sample = features.sample(dtype)
        try:
            results[dtype] = tuple(output.measure(sample) for output in outputs)
        except Exception:
            continue
    if len(results) == 1:
        features = replace(features, dtype=next(iter(results)))
    return features, next(iter(results.values()), outputs)
