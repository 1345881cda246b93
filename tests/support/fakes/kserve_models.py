"""Models of KServe's own kind."""

from __future__ import annotations

from typing import Any

import kserve

from .gates import pass_gate


class KServeDouble(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """A kserve.Model as KServe's documents show one: V1 lists, V2 messages; y = 2x."""

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
    """A kserve.Model whose plain `predict` waits at the gate that the request names."""

    def predict(
        self, payload: Any, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | kserve.InferResponse:
        pass_gate(payload["instances"][0])
        return {"predictions": payload["instances"]}


class KServeLoads(kserve.Model):  # type: ignore[misc]  # kserve has no types
    """A kserve.Model whose load fails."""

    def load(self) -> bool:
        raise RuntimeError("no weights here")
