"""KServe's own clients against a server; prints their results as JSON.

Usage: python client_kserve.py <base URL> <gRPC address>. It is a separate program,
since KServe's messages and Triton's have the same name in protobuf.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from numpy.typing import NDArray

ARRAYS: dict[str, NDArray[Any]] = {
    "FP32": np.array([[1.5, -2.0]], np.float32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "BYTES": np.array([b"text", "ü".encode(), b""], object),
}


def asked(model: str, datatype: str, binary: bool) -> InferRequest:
    array = ARRAYS[datatype]
    tensor = InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(
        model_name=model, infer_inputs=[tensor], request_id="7", parameters={"a": 1}
    )


def wrong() -> InferRequest:
    """Return a request whose data do not fit their shape."""
    tensor = InferInput("x", [3], "FP32", data=[1.0])
    return InferRequest(model_name="echo", infer_inputs=[tensor], request_id="7")


def shown(response: Any) -> dict[str, Any]:
    """Return an InferResponse, or the REST client's dictionary, in one form."""
    output = response.outputs[0]
    array = output.as_numpy()
    return {
        "id": response.id,
        "model": response.model_name,
        "name": output.name,
        "shape": list(output.shape),
        "datatype": output.datatype,
        "data": [
            value.decode() if isinstance(value, bytes) else value
            for value in array.ravel().tolist()
        ],
    }


async def failure(call: Awaitable[Any]) -> list[Any]:
    """Return the status and the text of a call's error."""
    try:
        return ["no error", str(await call)]
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]
    except grpc.aio.AioRpcError as error:
        return [error.code().name, error.details()]


async def over_rest(url: str) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        answers = {
            f"{datatype} {'binary' if binary else 'json'}": shown(
                await client.infer(url, asked("echo", datatype, binary), "echo")
            )
            for datatype in ARRAYS
            for binary in (False, True)
        }
        return {
            "answers": answers,
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, "echo"),
            "failed model ready": await client.is_model_ready(url, "failed"),
            "wrong": await failure(client.infer(url, wrong(), "echo")),
            "unknown": await failure(
                client.infer(url, asked("nobody", "FP32", False), "nobody")
            ),
        }


async def over_grpc(address: str) -> dict[str, Any]:
    async with InferenceGRPCClient(address, timeout=30) as client:
        answers = {
            f"{datatype} {'raw' if binary else 'typed'}": shown(
                await client.infer(asked("echo", datatype, binary))
            )
            for datatype in ARRAYS
            for binary in (False, True)
        }
        return {
            "answers": answers,
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("echo"),
            "failed model ready": await client.is_model_ready("failed"),
            "wrong": await failure(client.infer(wrong())),
            "unknown": await failure(client.infer(asked("nobody", "FP32", False))),
        }


async def main() -> None:
    url, address = sys.argv[1:3]
    print(json.dumps({"rest": await over_rest(url), "grpc": await over_grpc(address)}))


if __name__ == "__main__":
    asyncio.run(main())
