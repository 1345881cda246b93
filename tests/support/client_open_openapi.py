"""The client package `open-inference-openapi` against a server; prints JSON.

Usage: python client_open_openapi.py <base URL>. The protocol's own working group
generates this client from the OpenAPI document; its models are strict.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from open_inference.openapi.client import (
    AsyncOpenInferenceClient,
    OpenInferenceClient,
)
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.types.inference_request import InferenceRequest

CASES: dict[str, tuple[list[int], list[Any]]] = {
    "FP32": ([1, 2], [1.5, -2.0]),
    "FP64": ([2], [0.1, 1e300]),
    "BYTES": ([3], ["text", "ü", ""]),
}
"""Not BOOL and the integers, of which the client makes floats before it sends them."""


def failure(call: Callable[[], Any]) -> list[Any]:
    """Return the class of the error, its status and its text."""
    try:
        return ["no error", str(call())]
    except ApiError as error:
        body = error.body
        text = body["error"] if isinstance(body, dict) else getattr(body, "error", body)
        return [type(error).__name__, error.status_code, text]


def asked(
    shape: list[int], data: list[Any], datatype: str, **more: Any
) -> InferenceRequest:
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    return InferenceRequest.parse_obj({"inputs": [tensor], **more})


def shown(answer: Any) -> Any:
    return json.loads(answer.json())


def main() -> None:
    url = sys.argv[1]
    client = OpenInferenceClient(base_url=url)

    def infer(model: str, version: str, request: InferenceRequest) -> Any:
        return client.model_version_infer(model, version, request=request)

    one = asked([1], [1.0], "FP32")
    answers = {
        datatype: shown(infer("echo", "1", asked(shape, data, datatype, id="7")))
        for datatype, (shape, data) in CASES.items()
    }
    selected = asked([1], [1.0], "FP32", outputs=[{"name": "x"}])
    parameters = asked([1], [1.0], "FP32", parameters={"a": 1, "b": "c"})

    async def asynchronous() -> Any:
        other = AsyncOpenInferenceClient(base_url=url)
        return shown(await other.model_version_infer("echo", "1", request=one))

    # these return no value; they raise if the answer is no
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_version_readiness("echo", "1")
    seen = {
        "answers": answers,
        "selected": shown(infer("echo", "1", selected)),
        "parameters": shown(infer("echo", "1", parameters)),
        "async": asyncio.run(asynchronous()),
        "server": shown(client.read_server_metadata()),
        "model": shown(client.read_model_version_metadata("echo", "1")),
        "unknown": failure(lambda: infer("nobody", "1", one)),
        "unknown metadata": failure(
            lambda: client.read_model_version_metadata("nobody", "1")
        ),
        "version": failure(lambda: infer("echo", "7", one)),
        "wrong": failure(lambda: infer("echo", "1", asked([3], [1.0], "FP32"))),
        "failed": failure(lambda: infer("failed", "1", one)),
        "failed ready": failure(
            lambda: client.check_model_version_readiness("failed", "1")
        ),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
