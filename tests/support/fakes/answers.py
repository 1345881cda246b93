"""Handlers that differ from `Echo` in their answers."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
from pydantic import BaseModel, SecretStr

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
    Parameters,
    ResponseOutput,
    TensorData,
)

from .echo import FOREVER_S, Echo


class Lists(Echo):
    """Reads and writes Python lists, as upstream handlers do: y = 2x."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        tensor = payload.inputs[0]
        values = np.asarray(tensor.data.root, dtype=np.float32).ravel().tolist()
        output = ResponseOutput(
            name="y",
            shape=tensor.shape,
            datatype=Datatype.FP32,
            data=TensorData(root=[2 * value for value in values]),
        )
        return InferenceResponse(model_name=model_name, outputs=[output])


class Async(Echo):
    """An async handler whose answer has the name of its thread."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        await asyncio.sleep(0.01)
        answer = Echo.infer(self, payload, model_name, model_version)
        answer.parameters = Parameters.model_validate(
            {"thread": threading.current_thread().name}
        )
        return answer


class Slow(Echo):
    """Blocks for the number of seconds in the first element."""

    running = 0
    most = 0

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        Slow.running += 1
        Slow.most = max(Slow.most, Slow.running)
        time.sleep(float(payload.inputs[0].as_numpy().flat[0]))
        Slow.running -= 1
        answer = super().infer(payload, model_name, model_version)
        answer.parameters = Parameters.model_validate({"most": Slow.most})
        return answer


class Raises(Echo):
    """Raises the exception that the input's first element names."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        name = payload.inputs[0].as_numpy().flat[0].decode()
        if name == "wrong output":
            data = TensorData([1.0, 2.0])
            output = ResponseOutput(
                name="y", shape=[3], datatype=Datatype.FP32, data=data
            )
            return InferenceResponse(model_name=model_name, outputs=[output])
        import builtins

        import oip_host

        kind = getattr(builtins, name, None) or getattr(oip_host, name)
        raise kind("the handler's own words")


class Together(Echo):
    """An async handler that answers once three requests are in it."""

    def __init__(self) -> None:
        self.inside = 0
        self.complete: asyncio.Event | None = None

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        self.complete = self.complete or asyncio.Event()
        self.inside += 1
        if self.inside == 3:
            self.complete.set()
        await asyncio.wait_for(self.complete.wait(), FOREVER_S)
        return Echo.infer(self, payload, model_name, model_version)


class Tells(Echo):
    """Answers the name, version and thread of the call."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        answer = super().infer(payload, model_name, model_version)
        answer.parameters = Parameters.model_validate(
            {
                "name": model_name,
                "version": model_version,
                "thread": threading.current_thread().name,
            }
        )
        return answer


class NoMetadata(Echo):
    """Has no description."""

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        raise NotImplementedError("there is nothing to describe")


class NotANumber(Echo):
    """Answers a NaN, which JSON does not allow."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        output = ResponseOutput.from_numpy("y", np.array([np.nan], np.float32))
        return InferenceResponse(model_name=model_name, outputs=[output])


class Configured(Echo):
    """Shows the settings that the host built for it."""

    class Settings(BaseModel):
        path: Path
        scale: float = 1.0
        labels: list[str] = []
        password: SecretStr | None = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        shown = self.settings.model_dump(mode="json", exclude={"password", "labels"})
        shown["labels"] = ",".join(self.settings.labels)
        shown["version"] = model_version
        answer = super().infer(payload, model_name, model_version)
        answer.parameters = Parameters.model_validate(shown)
        return answer


class Free(Echo):
    """One input with two dimensions of any size."""

    inputs = (("x", Datatype.FP32, [-1, -1]),)


class Two(Echo):
    """Two inputs."""

    inputs = (("x", Datatype.FP32, [1]), ("y", Datatype.FP32, [1]))


class Words(Echo):
    """One input with one BYTES element."""

    inputs = (("x", Datatype.BYTES, [1]),)


def make_echo() -> Echo:
    """Return an `Echo`; a factory instead of a class."""
    return Echo()
