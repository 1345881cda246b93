"""Custom models of KServe, as its documentation shows them."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from kserve import InferOutput, InferResponse, Model, ModelServer

from bench.apps.loopback import keep_to_loopback

PAUSES = {"arrays": 0.0, "fixedcost": 0.005, "sleeper": 0.1}


class Affine(Model):  # type: ignore[misc]  # kserve has no types
    """y = 2x + 1, after a pause."""

    def __init__(self, name: str, pause_s: float) -> None:
        super().__init__(name)
        self.pause_s = pause_s
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        """Answer in the form of the request."""
        x = payload.inputs[0].as_numpy()
        if self.pause_s:
            time.sleep(self.pause_s)
        y = 2 * x + 1
        # the fastest of the ways that answer JSON, binary and raw contents alike
        output = InferOutput(name="y", shape=list(y.shape), datatype="FP32")
        output.set_data_from_numpy(y)
        return InferResponse(
            model_name=self.name,
            response_id=payload.id,
            infer_outputs=[output],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    keep_to_loopback()
    models = json.loads(os.environ["BENCH_MODELS"])
    ModelServer().start(
        [Affine(n, PAUSES[h]) for n, h in models.items() if h in PAUSES]
    )
