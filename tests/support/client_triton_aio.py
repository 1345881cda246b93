"""Triton's asyncio clients, and all four clients with compression; prints JSON.

Usage: python client_triton_aio.py <REST address> <gRPC address>. It is a separate
program, since Triton's messages and KServe's have the same name in protobuf.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc  # type: ignore[import-untyped]
import tritonclient.grpc.aio  # type: ignore[import-untyped]
import tritonclient.http  # type: ignore[import-untyped]
import tritonclient.http.aio  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from support.client_triton import ARRAYS, NOT_TEXT, plain
else:  # found in this program's own directory
    from client_triton import ARRAYS, NOT_TEXT, plain

LONG = np.tile(np.arange(8, dtype=np.float32), 1000)
CODECS = ("gzip", "deflate")


async def failure(call: Awaitable[Any]) -> list[Any]:
    """Return the status and the text of a call's error."""
    try:
        return ["no error", str(await call)]
    except InferenceServerException as error:
        return [error.status(), error.message()]


def tensor(module: Any, array: Any, datatype: str, **form: Any) -> Any:
    made = module.InferInput("x", list(array.shape), datatype)
    made.set_data_from_numpy(array, **form)
    return made


async def described(client: Any, module: Any, **options: Any) -> dict[str, Any]:
    """Return health, metadata and errors, by calls that both clients share."""
    three = module.InferInput("x", [3], "FP32")
    three.set_data_from_numpy(np.zeros(3, np.float32))
    name = module.InferInput("x", [1], "BYTES")
    name.set_data_from_numpy(np.array([b"never"], object))
    return {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model ready": await client.is_model_ready("echo"),
        "version ready": await client.is_model_ready("echo", "1"),
        "failed model ready": await client.is_model_ready("failed"),
        "server": await client.get_server_metadata(**options),
        "model": await client.get_model_metadata("echo", "1", **options),
        "unknown metadata": await failure(client.get_model_metadata("nobody")),
        "unknown": await failure(client.infer("nobody", [three])),
        "version": await failure(client.infer("echo", [three], "7")),
        "failed": await failure(client.infer("failed", [three])),
        "late": await failure(client.infer("late", [name])),
    }


async def over_http(address: str) -> dict[str, Any]:
    http = tritonclient.http
    answers = {}
    async with http.aio.InferenceServerClient(address) as client:
        arrays = [(key, key, array) for key, array in ARRAYS.items()]
        for key, datatype, array in (*arrays, ("not text", "BYTES", NOT_TEXT)):
            for binary in (True, False):
                if not binary and key in ("FP16", "not text"):
                    continue  # the client supports none of them in JSON
                form = {"binary_data": binary}
                answer = await client.infer(
                    "echo",
                    [tensor(http, array, datatype, **form)],
                    outputs=[http.InferRequestedOutput("x", **form)],
                    request_id="7",
                )
                found = answer.as_numpy("x")
                head = answer.get_response()
                answers[f"{key} {'binary' if binary else 'json'}"] = [
                    head["id"], head["model_name"], list(found.shape), plain(found),
                ]  # fmt: skip
        return {"answers": answers, **await described(client, http)}


async def over_grpc(address: str) -> dict[str, Any]:
    grpc = tritonclient.grpc
    answers = {}
    async with grpc.aio.InferenceServerClient(address) as client:
        arrays = [(key, key, array) for key, array in ARRAYS.items()]
        for key, datatype, array in (*arrays, ("not text", "BYTES", NOT_TEXT)):
            answer = await client.infer(
                "echo", [tensor(grpc, array, datatype)], request_id="7"
            )
            found = answer.as_numpy("x")
            head = answer.get_response()
            answers[f"{key} binary"] = [
                head.id, head.model_name, list(found.shape), plain(found),
            ]  # fmt: skip
        return {"answers": answers, **await described(client, grpc, as_json=True)}


def compressed_http(address: str) -> dict[str, Any]:
    """Return whether a long tensor comes back the same, by each pair of codecs."""
    http = tritonclient.http
    results = {}
    with http.InferenceServerClient(address) as client:
        for sent in (None, *CODECS):
            for wanted in (None, *CODECS):
                for binary in (True, False):
                    answer = client.infer(
                        "echo",
                        [tensor(http, LONG, "FP32", binary_data=binary)],
                        outputs=[http.InferRequestedOutput("x", binary_data=binary)],
                        request_compression_algorithm=sent,
                        response_compression_algorithm=wanted,
                    )
                    same = np.array_equal(LONG, answer.as_numpy("x"))
                    results[f"{sent} {wanted} {binary}"] = same
    return results


async def compressed_http_aio(address: str) -> dict[str, Any]:
    http = tritonclient.http
    results = {}
    async with http.aio.InferenceServerClient(address) as client:
        for codec in CODECS:
            answer = await client.infer(
                "echo",
                [tensor(http, LONG, "FP32")],
                request_compression_algorithm=codec,
                response_compression_algorithm=codec,
            )
            results[codec] = np.array_equal(LONG, answer.as_numpy("x"))
    return results


def compressed_grpc(address: str) -> dict[str, Any]:
    grpc = tritonclient.grpc
    results = {}
    with grpc.InferenceServerClient(address) as client:
        for codec in CODECS:
            answer = client.infer(
                "echo", [tensor(grpc, LONG, "FP32")], compression_algorithm=codec
            )
            results[codec] = np.array_equal(LONG, answer.as_numpy("x"))
    return results


async def compressed_grpc_aio(address: str) -> dict[str, Any]:
    grpc = tritonclient.grpc
    results = {}
    async with grpc.aio.InferenceServerClient(address) as client:
        for codec in CODECS:
            answer = await client.infer(
                "echo", [tensor(grpc, LONG, "FP32")], compression_algorithm=codec
            )
            results[codec] = np.array_equal(LONG, answer.as_numpy("x"))
    return results


async def main() -> None:
    http, grpc = sys.argv[1:3]
    seen = {
        "http": await over_http(http),
        "grpc": await over_grpc(grpc),
        "compressed": {
            "http": await asyncio.to_thread(compressed_http, http),
            "http aio": await compressed_http_aio(http),
            "grpc": await asyncio.to_thread(compressed_grpc, grpc),
            "grpc aio": await compressed_grpc_aio(grpc),
        },
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main())
