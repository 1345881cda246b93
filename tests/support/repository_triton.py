"""Triton's clients for repository, statistics and configuration; prints JSON.

Usage: python repository_triton.py <REST address> <gRPC address> <model>. It is a
separate program, since Triton's messages and KServe's have the same name in protobuf.
It unloads and loads the model, then infers with it twice, once with success.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc  # type: ignore[import-untyped]
import tritonclient.http  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]


def failure(call: Callable[[], Any]) -> list[Any]:
    """Return the status and the text of a call's error."""
    try:
        return ["no error", str(call())]
    except InferenceServerException as error:
        return [error.status(), error.message()]


def seen(module: Any, address: str, model: str, **options: Any) -> dict[str, Any]:
    with module.InferenceServerClient(address) as client:

        def index() -> Any:
            entries = client.get_model_repository_index(**options)
            return entries["models"] if options else entries

        tensor = module.InferInput("x", [1], "FP32")
        tensor.set_data_from_numpy(np.ones(1, np.float32))
        client.unload_model(model)
        unloaded = index(), client.is_model_ready(model)
        client.load_model(model)
        client.load_model(model)  # a reload
        loaded = index(), client.is_model_ready(model)
        client.infer(model, [tensor])
        wrong = [module.InferRequestedOutput("no such output")]
        failed = failure(lambda: client.infer(model, [tensor], outputs=wrong))
        statistics = client.get_inference_statistics
        return {
            "unloaded": unloaded,
            "loaded": loaded,
            "failed": failed,
            "all": statistics(**options),
            "model": statistics(model, **options),
            "version": statistics(model, "1", **options),
            "config": client.get_model_config(model, **options),
            "config of version": client.get_model_config(model, "1", **options),
            "unknown": {
                "load": failure(lambda: client.load_model("nobody")),
                "unload": failure(lambda: client.unload_model("nobody")),
                "statistics": failure(lambda: statistics("nobody")),
                "config": failure(lambda: client.get_model_config("nobody")),
            },
        }


def main() -> None:
    http, grpc, model = sys.argv[1:4]
    over_http = seen(tritonclient.http, http, model)
    over_grpc = seen(tritonclient.grpc, grpc, model, as_json=True)
    print(json.dumps({"http": over_http, "grpc": over_grpc}))


if __name__ == "__main__":
    main()
