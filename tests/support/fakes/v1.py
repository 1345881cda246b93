"""Handlers and models for the V1 protocol, served as `fakes.v1:Name`."""

from __future__ import annotations

from typing import Any

import numpy as np

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    ResponseOutput,
)

from .echo import Echo
from .kserve_models import KServeDouble


class Texts(Echo):
    """One input of BYTES."""

    inputs = (("x0", Datatype.BYTES, [-1]),)


class Integers(Echo):
    """One input of INT8."""

    inputs = (("x0", Datatype.INT8, [-1]),)


class Pair(Echo):
    """Two inputs, a number and a text."""

    inputs = (("x0", Datatype.FP32, [-1]), ("x1", Datatype.BYTES, [-1]))


class Nothing(Echo):
    """No input, which V1 cannot express."""

    inputs = ()


class Hexadecimal(Texts):
    """Answers its input's elements as text, or as bytes in hexadecimal."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        x = payload.inputs[0]
        elements = x.data.elements(x.datatype)
        told = [
            f"text {e}" if isinstance(e, str) else f"bytes {e.hex()}"
            for e in elements.ravel()
        ]
        output = ResponseOutput.from_numpy(
            "told", np.array(told, object).reshape(x.shape)
        )
        return InferenceResponse(model_name=model_name, outputs=[output])


class Outputs(Echo):
    """Two outputs with a row for each instance: the sum, and a word for it."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        total = payload.inputs[0].as_numpy().sum(axis=1)
        words = np.array([b"big" if one > 10 else b"small" for one in total], object)
        outputs = [
            ResponseOutput.from_numpy("total", total),
            ResponseOutput.from_numpy("word", words),
        ]
        return InferenceResponse(model_name=model_name, outputs=outputs)


class Uneven(Echo):
    """Two outputs with different numbers of rows."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        x = payload.inputs[0].as_numpy()
        outputs = [
            ResponseOutput.from_numpy("rows", x),
            ResponseOutput.from_numpy("count", np.array([len(x), 0, 0], np.int64)),
        ]
        return InferenceResponse(model_name=model_name, outputs=outputs)


class Explains(KServeDouble):
    """A kserve.Model that explains, and whose `predict` may raise."""

    def predict(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        if payload["instances"] == ["raise"]:
            raise RuntimeError("a secret of the program")
        return super().predict(payload, headers)

    def explain(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        return {"explanations": [f"twice {value}" for value in payload["instances"]]}
