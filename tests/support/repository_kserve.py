"""KServe's gRPC stub and REST calls for the repository; prints the results as JSON.

Usage: python repository_kserve.py <base URL> <gRPC address>. It is a separate program,
since KServe's messages and Triton's have the same name in protobuf.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
from kserve import InferenceRESTClient, RESTConfig
from kserve.protocol.grpc.grpc_predict_v2_pb2 import (
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
)
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub


def over_grpc(address: str) -> dict[str, Any]:
    def answered(method: Any, request: Any) -> Any:
        try:
            answer = method(request, timeout=30)
        except grpc.RpcError as error:
            return [error.code().name, error.details()]
        return {field.name: value for field, value in answer.ListFields()}

    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        load, unload = stub.RepositoryModelLoad, stub.RepositoryModelUnload
        asked = {
            "unload": (unload, RepositoryModelUnloadRequest(model_name="echo")),
            "load": (load, RepositoryModelLoadRequest(model_name="echo")),
            "reload": (load, RepositoryModelLoadRequest(model_name="echo")),
            "unknown load": (load, RepositoryModelLoadRequest(model_name="nobody")),
            "unknown unload": (unload, RepositoryModelUnloadRequest(model_name="none")),
        }
        return {name: answered(*call) for name, call in asked.items()}


async def ready(url: str) -> bool:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        return bool(await client.is_model_ready(url, "echo"))


def main() -> None:
    url, address = sys.argv[1:3]
    print(json.dumps({**over_grpc(address), "ready": asyncio.run(ready(url))}))


if __name__ == "__main__":
    main()
