"""MLServer's codecs and types as a client; prints each step's result as JSON.

Run by the Python of an environment with mlserver: client_mlserver.py URL
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any

import numpy as np
from mlserver.codecs import (  # type: ignore[import-not-found]
    NumpyCodec,
    NumpyRequestCodec,
    StringCodec,
)
from mlserver.types import (  # type: ignore[import-not-found]
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
)

URL = sys.argv[1] if len(sys.argv) > 1 else ""


def call(path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    request = urllib.request.Request(URL + path, body)
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def infer(request: Any) -> Any:
    """Return the answer as MLServer's own message."""
    body = request.model_dump_json(exclude_none=True).encode()
    return InferenceResponse.model_validate_json(call("/v2/models/echo/infer", body)[1])


def main() -> None:
    arrays = {}
    for dtype in ("float32", "float64", "int64", "uint8", "bool"):
        array = np.array([[0, 1], [1, 0]], dtype)
        answer = infer(NumpyRequestCodec.encode_request(array))
        back = NumpyCodec.decode_output(answer.outputs[0])
        arrays[dtype] = bool(back.dtype == array.dtype and (back == array).all())
    text = StringCodec.encode_input("x", ["a", "ü"], use_bytes=False)
    strings = infer(InferenceRequest(inputs=[text])).outputs[0]
    metadata = MetadataModelResponse.model_validate_json(call("/v2/models/echo")[1])
    print(
        json.dumps(
            {
                "arrays": arrays,
                "strings": StringCodec.decode_output(strings),
                "metadata": metadata.inputs[0].name,
                "ready": call("/v2/health/ready")[0],
                "error": json.loads(call("/v2/models/none/infer", b"{}")[1]),
            }
        )
    )


if __name__ == "__main__":
    main()
