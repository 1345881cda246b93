"""The floor by gRPC: a bare grpc.aio server and the protocol's own messages."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from open_inference.grpc import protocol

MAX_BYTES = 64 << 20
LIMITS = [
    ("grpc.max_receive_message_length", MAX_BYTES),
    ("grpc.max_send_message_length", MAX_BYTES),
]


async def infer(request: Any, _context: Any) -> Any:
    """Raw contents are answered raw, typed ones typed."""
    tensor = request.inputs[0]
    answer = protocol.ModelInferResponse(model_name=request.model_name, id=request.id)
    output = answer.outputs.add(name="y", datatype="FP32", shape=tensor.shape)
    if request.raw_input_contents:
        x = np.frombuffer(request.raw_input_contents[0], np.float32)
        answer.raw_output_contents.append((2 * x + 1).tobytes())
    else:
        x = np.array(tensor.contents.fp32_contents[:], np.float32)
        output.contents.fp32_contents.extend((2 * x + 1).tolist())
    return answer


async def start(address: str) -> Any:
    """Start a server and return it."""
    server = grpc.aio.server(options=LIMITS)
    method = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=protocol.ModelInferRequest.FromString,
        response_serializer=protocol.ModelInferResponse.SerializeToString,
    )
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {"ModelInfer": method})]
    )
    server.add_insecure_port(address)
    await server.start()
    return server
