"""The client package `open-inference-grpc` against a server; prints JSON.

Usage: python client_open_grpc.py <gRPC address>. The protocol's own working group
generates this client from the proto file. It is a separate program, since its messages
have the same name in protobuf as KServe's and Triton's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import grpc
import open_inference.grpc.protocol as wire
from google.protobuf.json_format import MessageToDict
from open_inference.grpc.service import GRPCInferenceServiceStub

CASES: dict[str, tuple[list[int], str, list[Any]]] = {
    "BOOL": ([2], "bool_contents", [True, False]),
    "INT8": ([2], "int_contents", [-128, 127]),
    "INT64": ([2], "int64_contents", [-(2**63), 2**63 - 1]),
    "UINT64": ([1], "uint64_contents", [2**64 - 1]),
    "FP32": ([1, 2], "fp32_contents", [1.5, -2.0]),
    "FP64": ([2], "fp64_contents", [0.1, 1e300]),
    "BYTES": ([2], "bytes_contents", ["ü".encode(), b""]),
}


def failure(call: Callable[[], Any]) -> list[Any]:
    """Return the code and the text of a call's error."""
    try:
        return ["no error", str(call())]
    except grpc.RpcError as error:
        return [error.code().name, error.details()]


def asked(
    shape: list[int], name: str, data: list[Any], datatype: str, **more: Any
) -> Any:
    request = wire.ModelInferRequest(**{"model_name": "echo", **more})
    tensor = request.inputs.add(name="x", shape=shape, datatype=datatype)
    getattr(tensor.contents, name).extend(data)
    return request


def plain(values: Any) -> list[Any]:
    return [one.decode() if isinstance(one, bytes) else one for one in values]


def main() -> None:
    with grpc.insecure_channel(sys.argv[1]) as channel:
        stub: Any = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        answers = {}
        for datatype, (shape, name, data) in CASES.items():
            answer = stub.ModelInfer(asked(shape, name, data, datatype, id="7"))
            output = answer.outputs[0]
            answers[datatype] = [
                answer.id, answer.model_name, output.name, output.datatype,
                list(output.shape), plain(getattr(output.contents, name)),
            ]  # fmt: skip
        raw = wire.ModelInferRequest(model_name="echo")
        raw.inputs.add(name="x", shape=[1], datatype="FP32")
        raw.raw_input_contents.append(b"\x00\x00\xc0\x3f")
        with_parameters = asked([1], "fp32_contents", [1.0], "FP32")
        with_parameters.parameters["a"].int64_param = 1
        with_parameters.parameters["b"].string_param = "c"
        parameters = stub.ModelInfer(with_parameters).parameters

        def one(**more: Any) -> Any:
            return asked([1], "fp32_contents", [1.0], "FP32", **more)

        def metadata(name: str) -> Any:
            return stub.ModelMetadata(wire.ModelMetadataRequest(name=name))

        def ready(name: str, version: str = "") -> bool:
            request = wire.ModelReadyRequest(name=name, version=version)
            return bool(stub.ModelReady(request).ready)

        wrong = asked([3], "fp32_contents", [1.0], "FP32")
        seen = {
            "answers": answers,
            "raw": stub.ModelInfer(raw).raw_output_contents[0].hex(),
            "parameters": [parameters["a"].int64_param, parameters["b"].string_param],
            "live": stub.ServerLive(wire.ServerLiveRequest()).live,
            "ready": stub.ServerReady(wire.ServerReadyRequest()).ready,
            "model ready": ready("echo"),
            "version ready": ready("echo", "1"),
            "failed model ready": ready("failed"),
            "server": MessageToDict(stub.ServerMetadata(wire.ServerMetadataRequest())),
            "model": MessageToDict(metadata("echo")),
            "unknown": failure(lambda: stub.ModelInfer(one(model_name="nobody"))),
            "unknown metadata": failure(lambda: metadata("nobody")),
            "version": failure(lambda: stub.ModelInfer(one(model_version="7"))),
            "wrong": failure(lambda: stub.ModelInfer(wrong)),
            "failed": failure(lambda: stub.ModelInfer(one(model_name="failed"))),
        }
        print(json.dumps(seen))


if __name__ == "__main__":
    main()
