"""Custom runtimes of MLServer, as its documentation shows them."""

from __future__ import annotations

import time
from typing import Any

from mlserver import MLModel  # type: ignore[import-not-found]  # in its own one only
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceResponse  # type: ignore[import-not-found]


class Arrays(MLModel):  # type: ignore[misc]
    """y = 2x + 1, after a pause."""

    pause_s = 0.0

    async def load(self) -> bool:
        """Do nothing: there is nothing to load."""
        return True

    async def predict(self, payload: Any) -> Any:
        """Answer in the form of the request."""
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        if self.pause_s:
            time.sleep(self.pause_s)  # noqa: ASYNC251  # it is to block
        output = NumpyCodec.encode_output(name="y", payload=2 * x + 1)
        return InferenceResponse(model_name=self.name, outputs=[output])


class Fixedcost(Arrays):
    """A call takes 5 ms, however many rows."""

    pause_s = 0.005


class Sleeper(Arrays):
    """A call blocks its thread for 0.1 s."""

    pause_s = 0.1
