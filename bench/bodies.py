"""The bytes of a request, and the check of the answer to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from bench.workloads import Workload

__all__ = ["body_of", "check", "headers_of", "numbers"]

REQUEST_ID = "1"


def numbers(workload: Workload) -> Any:
    """Return the same float32 numbers in every run, in the shape of the workload."""
    generator = np.random.default_rng(7)
    return generator.normal(size=workload.shape).astype(np.float32)


def _messages() -> Any:
    """Import and return the protocol's own messages.

    Late, since KServe's have the same names, and a process can know only one of both.
    """
    from open_inference.grpc import protocol

    return protocol


def body_of(workload: Workload, model: str) -> bytes:
    """Return a request to a model; by REST the name is in the path instead."""
    x = numbers(workload)
    if not workload.rest:
        return _protobuf(workload, model, x)
    tensor: dict[str, Any] = {
        "name": "x",
        "datatype": "FP32",
        "shape": workload.shape,
    }
    document: dict[str, Any] = {"id": REQUEST_ID, "inputs": [tensor]}
    if workload.carrier == "json":
        # as Python clients send float32: widened, with all the digits of a double
        tensor["data"] = x.ravel().tolist()
        return orjson.dumps(document)
    tensor["parameters"] = {"binary_data_size": x.nbytes}
    document["outputs"] = [{"name": "y", "parameters": {"binary_data": True}}]
    return orjson.dumps(document) + bytes(x.tobytes())


def _protobuf(workload: Workload, model: str, x: Any) -> bytes:
    request = _messages().ModelInferRequest(model_name=model, id=REQUEST_ID)
    tensor = request.inputs.add(name="x", datatype="FP32", shape=workload.shape)
    if workload.carrier == "raw":
        request.raw_input_contents.append(x.tobytes())
    else:
        tensor.contents.fp32_contents.extend(x.ravel().tolist())
    return bytes(request.SerializeToString())


def headers_of(workload: Workload, body: bytes) -> dict[str, str]:
    """Return the headers by which a server knows how to read the body."""
    length = {"Content-Length": str(len(body))}
    if workload.carrier == "json":
        return {"Content-Type": "application/json", **length}
    head = len(body) - numbers(workload).nbytes
    return {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(head),
        **length,
    }


def check(workload: Workload, answer: bytes) -> None:
    """ValueError where the answer does not have the right shape and numbers."""
    expected = 2 * numbers(workload) + 1
    shape, y = _decode(workload, answer, expected.nbytes)
    if tuple(shape) != workload.shape or y.size != expected.size:
        raise ValueError(f"found shape {shape} with {y.size} numbers")
    if not np.allclose(y, expected.ravel(), rtol=1e-5, atol=1e-5):
        raise ValueError("the numbers of the answer are wrong")


def _decode(workload: Workload, answer: bytes, size: int) -> tuple[Any, Any]:
    """Return the shape and the numbers of the first output."""
    if workload.carrier == "json":
        output = orjson.loads(answer)["outputs"][0]
        return output["shape"], np.array(output["data"], np.float32).ravel()
    if workload.carrier == "binary":
        output = orjson.loads(answer[:-size])["outputs"][0]
        return output["shape"], np.frombuffer(answer[-size:], np.float32)
    message = _messages().ModelInferResponse.FromString(answer)
    output = message.outputs[0]
    if message.raw_output_contents:  # which the protocol allows for either request
        return output.shape, np.frombuffer(message.raw_output_contents[0], np.float32)
    return output.shape, np.array(output.contents.fp32_contents[:], np.float32)
