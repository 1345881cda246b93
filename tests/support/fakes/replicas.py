"""Handlers for replicas that obey requests, served as `fakes.replicas:Name`.

They and the tests share the directory named in REPLICA_DIR: `<model>.life` has a line
for each load and unload, with the process.
"""

from __future__ import annotations

import builtins
import os
import sys
import time
from pathlib import Path
from typing import Any

import kserve
import numpy as np

import oip_host
from oip_host import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    ModelReadyResponse,
    Parameters,
    ResponseOutput,
)

from .echo import Echo


def shared(name: str) -> Path:
    """Return a file that handlers and tests share."""
    return Path(os.environ["REPLICA_DIR"], name)


class Obeys(Echo):
    """Answers a text with the result of that order, and numbers with themselves."""

    inputs = (("x", Datatype.BYTES, [-1]),)

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        tensor = payload.inputs[0]
        array = tensor.as_numpy()
        told = {"process": os.getpid(), "borrowed": not array.flags.owndata}
        if tensor.datatype == Datatype.BYTES:
            order, *arguments = array.flat[0].decode().split()
            array = np.array([getattr(self, order)(*arguments)], object)
        return InferenceResponse(
            model_name=model_name,
            parameters=Parameters.model_validate(told),
            outputs=[ResponseOutput.from_numpy("y", array)],
        )

    def tell(self, name: str) -> str:
        """Return the process, its Python, or the id of the request."""
        known = {
            "process": str(os.getpid()),
            "python": sys.executable,
            "request": oip_host.request_id(),
        }
        return known[name]

    def wait(self, seconds: str) -> str:
        time.sleep(float(seconds))
        return seconds

    def hold(self, name: str) -> str:
        """Create a file when the call begins, and take a second."""
        shared(name).touch()
        time.sleep(1)
        return name

    def fail(self, kind: str) -> str:
        made = getattr(builtins, kind, None) or getattr(oip_host, kind)
        raise made("the handler's own words")

    def die(self, once: str = "") -> str:
        """End the process; with a name, only the first call with it does so."""
        if not once or not shared(once).exists():
            if once:
                shared(once).touch()
            os._exit(9)
        return "lives"

    def model_load(self, model_name: str) -> bool:
        self._note(model_name, "load")
        return True

    def model_unload(self, model_name: str) -> None:
        self._note(model_name, "unload")

    def model_ready(
        self, model_name: str, model_version: str | None = None
    ) -> ModelReadyResponse:
        ready = not shared(f"{model_name}.unready").exists()
        return ModelReadyResponse(name=model_name, ready=ready)

    @staticmethod
    def _note(model: str, what: str) -> None:
        with shared(f"{model}.life").open("a") as file:
            file.write(f"{what} {os.getpid()}\n")


class Again(Obeys):
    """`Obeys`, but marked as idempotent."""

    idempotent = True


class Reuses(Obeys):
    """Answers in the same memory each time."""

    memory = np.zeros(300_000, np.float32)

    def infer(
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        self.memory[:] = payload.inputs[0].as_numpy().flat[0]
        outputs = [ResponseOutput.from_numpy("y", self.memory)]
        return InferenceResponse(model_name=model_name, outputs=outputs)


class Flawed(Obeys):
    """Fails to load."""

    def model_load(self, model_name: str) -> bool:
        raise OSError("no weights here")


class Former(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """A `kserve.Model` for both protocols, which doubles its input."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(
        self, payload: Any, headers: Any = None, response_headers: Any = None
    ) -> Any:
        if isinstance(payload, dict):
            if payload["instances"] == ["wrong"]:
                raise kserve.errors.InvalidInput("the model's own words")
            return {"predictions": [2 * each for each in payload["instances"]]}
        array = 2 * payload.inputs[0].as_numpy()
        output = kserve.InferOutput("y", list(array.shape), "FP32")
        output.set_data_from_numpy(array, binary_data=False)
        return kserve.InferResponse(payload.id or "1", self.name, [output])
