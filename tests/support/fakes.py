"""Handlers that the tests serve as `fakes:Name`; real ones, only small."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import kserve
import numpy as np
from pydantic import BaseModel, SecretStr

from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelHandler,
    ModelMetadataResponse,
    ModelReadyResponse,
    Parameters,
    RequestInput,
    ResponseOutput,
    TensorData,
)

FOREVER_S = 600.0
"""More than any test waits: its server ends before it."""


def as_output(tensor: RequestInput) -> ResponseOutput:
    """The same tensor as an output."""
    return ResponseOutput(
        name=tensor.name,
        shape=tensor.shape,
        datatype=tensor.datatype,
        parameters=tensor.parameters,
        data=tensor.data,
    )


class Echo(ModelHandler):
    """Answers its inputs as its outputs, parameters included."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        return InferenceResponse(
            model_name=model_name,
            parameters=payload.parameters,
            outputs=[as_output(tensor) for tensor in payload.inputs],
        )

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        tensor = MetadataTensor(name="x", datatype=Datatype.FP32, shape=[-1, 2])
        return ModelMetadataResponse(
            name=model_name, platform="test", inputs=[tensor], outputs=[tensor]
        )

    def model_load(self, model_name: str) -> bool:
        return True


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
    """An async handler that tells the thread it runs in."""

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
    """Blocks for as many seconds as the first element says."""

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


class SlowLoad(Echo):
    """Loads when the file named in the variable SLOW_LOAD_GATE exists."""

    def model_load(self, model_name: str) -> bool:
        while not Path(os.environ["SLOW_LOAD_GATE"]).exists():
            time.sleep(0.01)
        return True


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


class Gated(Echo):
    """Waits, for each request, until the file of its name says that it may go on.

    The input's first element is the name: `GATE_DIR/<name>.started` appears when the
    handler is called, and it answers when `GATE_DIR/<name>.open` is there. The answer
    tells how many calls ran at the same time at most.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = self.most = 0

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        pass_gate(payload.inputs[0].as_numpy().flat[0].decode())
        with self.lock:
            self.running -= 1
        answer = super().infer(payload, model_name, model_version)
        answer.parameters = Parameters.model_validate({"most": self.most})
        return answer


def pass_gate(name: str) -> None:
    """Tell that `name` arrived, and wait until it may go on."""
    gates = Path(os.environ["GATE_DIR"])
    (gates / f"{name}.started").touch()
    end = time.monotonic() + FOREVER_S
    while not (gates / f"{name}.open").exists() and time.monotonic() < end:
        time.sleep(0.005)


class GatedAsync(Gated):
    """An async handler that blocks its own event loop at the gate."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        return Gated.infer(self, payload, model_name, model_version)


class Together(Echo):
    """An async handler that answers when three requests are in it at once."""

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
    """Tells the name, the version and the thread with which it was called."""

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
    """Does not describe itself."""

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        raise NotImplementedError("there is nothing to describe")


class NotANumber(Echo):
    """Answers a NaN, which is no JSON."""

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        output = ResponseOutput.from_numpy("y", np.array([np.nan], np.float32))
        return InferenceResponse(model_name=model_name, outputs=[output])


class LoadFalse(Echo):
    """Says that it did not load."""

    def model_load(self, model_name: str) -> bool:
        return False


class LoadRaises(Echo):
    """Raises while it loads."""

    def model_load(self, model_name: str) -> bool:
        raise RuntimeError("no weights here")


class InitRaises(Echo):
    """Raises when it is made."""

    def __init__(self) -> None:
        raise RuntimeError("cannot be made")


class NoHandler:
    """Is no handler."""


class NotHealthy(Echo):
    """Loads, and then says that it is not ready."""

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        return ModelReadyResponse(name=model_name, ready=False)


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


class Unloads(Echo):
    """Writes a line to the file named in UNLOAD_FILE when it is unloaded."""

    def model_unload(self, model_name: str) -> None:
        with open(os.environ["UNLOAD_FILE"], "a") as file:
            file.write(f"{model_name}\n")


class KServeDouble(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """A kserve.Model as its documents show one: V1 lists, V2 messages; y = 2x."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def load(self) -> bool:
        self.ready = True
        return True

    def predict(
        self, payload: Any, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | kserve.InferResponse:
        if isinstance(payload, dict):
            return {"predictions": [2 * value for value in payload["instances"]]}
        x = payload.inputs[0]
        doubled = 2 * x.as_numpy()
        output = kserve.InferOutput("y", list(doubled.shape), x.datatype)
        output.set_data_from_numpy(doubled, binary_data=False)
        return kserve.InferResponse(payload.id, self.name, [output])


class KServeGated(KServeDouble):
    """A kserve.Model whose plain `predict` waits at the gate that it is asked for."""

    def predict(
        self, payload: Any, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | kserve.InferResponse:
        pass_gate(payload["instances"][0])
        return {"predictions": payload["instances"]}


class KServeLoads(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """A kserve.Model that is ready when it was loaded, and may fail to be."""

    def load(self) -> bool:
        raise RuntimeError("no weights here")


class Described(Echo):
    """Describes itself with the inputs that its class has."""

    inputs: tuple[tuple[str, Datatype, list[int]], ...] = ()

    def model_metadata(
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        tensors = [
            MetadataTensor(name=name, datatype=datatype, shape=shape)
            for name, datatype, shape in self.inputs
        ]
        return ModelMetadataResponse(
            name=model_name, platform="test", inputs=tensors, outputs=tensors
        )


class Free(Described):
    """An input with two dimensions of any size."""

    inputs = (("x", Datatype.FP32, [-1, -1]),)


class Two(Described):
    """Two inputs."""

    inputs = (("x", Datatype.FP32, [1]), ("y", Datatype.FP32, [1]))


class Words(Described):
    """An input of one element of BYTES."""

    inputs = (("x", Datatype.BYTES, [1]),)


def make_echo() -> Echo:
    """A factory instead of a class."""
    return Echo()
