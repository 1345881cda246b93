"""Handlers that wait at a gate until the tests open it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from oip_host import InferenceRequest, InferenceResponse, Parameters

from .echo import Echo, wait_while


def pass_gate(name: str) -> None:
    """Record that `name` has arrived, and wait until its gate is open."""
    gates = Path(os.environ["GATE_DIR"])
    (gates / f"{name}.started").touch()
    wait_while(lambda: not (gates / f"{name}.open").exists())


class Gated(Echo):
    """Holds each request until the gate of its name is open.

    The input's first element is the name: `GATE_DIR/<name>.started` appears when the
    handler is called, and it answers when `GATE_DIR/<name>.open` exists. The answer has
    the largest number of calls that ran at the same time.
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


class GatedAsync(Gated):
    """An async handler that blocks its own event loop at the gate."""

    async def infer(  # type: ignore[override]
        self,
        payload: InferenceRequest,
        model_name: str,
        model_version: str | None = None,
    ) -> InferenceResponse:
        return Gated.infer(self, payload, model_name, model_version)
