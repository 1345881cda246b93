"""Triton's own clients against a server; prints their results as JSON.

Usage: python client_triton.py <REST address> <gRPC address>. It is a separate program,
since Triton's messages and KServe's have the same name in protobuf.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc  # type: ignore[import-untyped]
import tritonclient.http  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

ARRAYS: dict[str, NDArray[Any]] = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([[0], [255]], np.uint8),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([0.5, 65504], np.float16),
    "FP32": np.array([[1.5, -2.0]], np.float32),
    "FP64": np.array([0.1, 1e300]),
    "BYTES": np.array([["text"], ["ü"], [""]], object),
}
NOT_TEXT = np.array([b"\xff\x00", b""], object)


def plain(array: Any) -> list[Any]:
    """Return the elements as JSON can show them."""
    return [
        value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        for value in array.ravel().tolist()
    ]


def failure(call: Callable[[], Any]) -> list[Any]:
    """Return the status and the text of a call's error."""
    try:
        return ["no error", str(call())]
    except InferenceServerException as error:
        return [error.status(), error.message()]


def described(client: Any, **options: Any) -> dict[str, Any]:
    """Return health, metadata and errors, by calls that both clients share."""
    tensor = client_of(client).InferInput("x", [3], "FP32")
    tensor.set_data_from_numpy(np.zeros(3, np.float32))
    name = client_of(client).InferInput("x", [1], "BYTES")
    name.set_data_from_numpy(np.array([b"never"], object))
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready("echo"),
        "version ready": client.is_model_ready("echo", "1"),
        "failed model ready": client.is_model_ready("failed"),
        "server": client.get_server_metadata(**options),
        "model": client.get_model_metadata("echo", "1", **options),
        "unknown metadata": failure(lambda: client.get_model_metadata("nobody")),
        "unknown": failure(lambda: client.infer("nobody", [tensor])),
        "version": failure(lambda: client.infer("echo", [tensor], "7")),
        "failed": failure(lambda: client.infer("failed", [tensor])),
        "late": failure(lambda: client.infer("late", [name])),
    }


def client_of(client: Any) -> Any:
    return sys.modules[type(client).__module__.rpartition(".")[0]]


def over_http(address: str) -> dict[str, Any]:
    http = tritonclient.http
    with http.InferenceServerClient(address) as client:

        def infer(
            array: NDArray[Any], datatype: str, sent: bool, wanted: bool
        ) -> list[Any]:
            tensor = http.InferInput("x", list(array.shape), datatype)
            tensor.set_data_from_numpy(array, binary_data=sent)
            output = http.InferRequestedOutput("x", binary_data=wanted)
            answer = client.infer("echo", [tensor], outputs=[output], request_id="7")
            found = answer.as_numpy("x")
            identity = [answer.get_response()[key] for key in ("id", "model_name")]
            return [*identity, list(found.shape), plain(found)]

        answers = {
            f"{datatype} {'binary' if sent else 'json'} "
            f"{'binary' if wanted else 'json'}": infer(array, datatype, sent, wanted)
            for datatype, array in ARRAYS.items()
            for sent in (False, True)
            for wanted in (False, True)
            # the client neither sends nor reads FP16 as JSON
            if datatype != "FP16" or (sent and wanted)
        }
        answers["not text"] = infer(NOT_TEXT, "BYTES", True, True)
        mixed = [http.InferInput(name, [2], "FP32") for name in "abc"]
        for n, tensor in enumerate(mixed):
            tensor.set_data_from_numpy(np.full(2, n, np.float32), binary_data=n != 1)
        outputs = [
            http.InferRequestedOutput(name, binary_data=name != "b") for name in "cba"
        ]
        answer = client.infer("echo", mixed, outputs=outputs)
        return {
            "answers": answers,
            "mixed": {name: plain(answer.as_numpy(name)) for name in "abc"},
            "not json": failure(lambda: infer(NOT_TEXT, "BYTES", True, False)),
            **described(client),
        }


def over_grpc(address: str) -> dict[str, Any]:
    grpc = tritonclient.grpc
    with grpc.InferenceServerClient(address) as client:

        def infer(array: NDArray[Any], datatype: str) -> list[Any]:
            tensor = grpc.InferInput("x", list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            answer = client.infer("echo", [tensor], request_id="7")
            found = answer.as_numpy("x")
            response = answer.get_response()
            return [response.id, response.model_name, list(found.shape), plain(found)]

        answers = {
            datatype: infer(array, datatype) for datatype, array in ARRAYS.items()
        }
        answers["not text"] = infer(NOT_TEXT, "BYTES")
        return {"answers": answers, **described(client, as_json=True)}


def main() -> None:
    print(json.dumps({"http": over_http(sys.argv[1]), "grpc": over_grpc(sys.argv[2])}))


if __name__ == "__main__":
    main()
