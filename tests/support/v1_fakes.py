"""Handlers and models for the V1 protocol, served as `v1_fakes:Name`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelMetadataResponse,
    ResponseOutput,
)

if TYPE_CHECKING:
    from support.fakes import Echo, KServeDouble
else:  # as the server, on whose path this directory is, finds it
    from fakes import Echo, KServeDouble


class Described(Echo):
    """Echoes inputs of the datatypes that a subclass names."""

    datatypes: tuple[Datatype, ...] = (Datatype.BYTES,)

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        tensors = [
            MetadataTensor(name=f"x{n}", datatype=datatype, shape=[-1])
            for n, datatype in enumerate(self.datatypes)
        ]
        return ModelMetadataResponse(
            name=model_name, platform="test", inputs=tensors, outputs=tensors
        )


class Texts(Described):
    """One input of BYTES."""


class Integers(Described):
    """One input of INT8."""

    datatypes = (Datatype.INT8,)


class Pair(Described):
    """Two inputs, a number and a text."""

    datatypes = (Datatype.FP32, Datatype.BYTES)


class Nothing(Described):
    """No input, for which V1 has no words."""

    datatypes = ()


class Hexadecimal(Described):
    """Tells what the elements of its input are: text, or bytes in hexadecimal."""

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
    """Two outputs of a row for each instance: the sum, and a word for it."""

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
    """Two outputs that have no rows in common."""

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
