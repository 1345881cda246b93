"""aiSSEMBLE's own KServe server. It hosts one handler; this one stands for several."""

from __future__ import annotations

import json
import os
from typing import Any

from aissemble_open_inference_protocol_kserve.aissemble_oip_kserve import (
    AissembleOIPKServe,
)
from bench.apps.loopback import keep_to_loopback
from bench.handlers.oip_bench_handlers.lists import Lists


class FixedCost(Lists):
    """A call takes 5 ms, however many rows."""

    pause_s = 0.005


class Sleeper(Lists):
    """A call blocks its thread for 0.1 s."""

    pause_s = 0.1


class Several(Lists):
    """The handler of the model that was asked for."""

    def __init__(self) -> None:
        kinds: dict[str, Lists] = {"fixedcost": FixedCost(), "sleeper": Sleeper()}
        models = json.loads(os.environ["BENCH_MODELS"])
        self._handlers = {n: kinds.get(h, Lists()) for n, h in models.items()}

    def infer(self, payload: Any, model_name: str, model_version: Any = None) -> Any:
        """Ask the handler of the model."""
        handler = self._handlers[model_name]
        return handler.infer(payload, model_name, model_version)


if __name__ == "__main__":
    keep_to_loopback()
    first = next(iter(json.loads(os.environ["BENCH_MODELS"])))
    model = AissembleOIPKServe(name=first, model_handler=Several())
    model.load()
    model.start_server()
