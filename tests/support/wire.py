"""One request over both protocols, with the answers in one form.

The gRPC side sends the protocol's own messages on a bare channel, without a client
library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from oip_host.edge.grpc.messages import SERVICE, message
from support.process import DEADLINE_S, Server

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True)
class Reply:
    """An answer or an error; `status` is HTTP's number or the name of gRPC's code."""

    status: int | str
    document: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def error(self) -> str:
        """Return the error's text, which must be the only field of its document."""
        assert list(self.document) == ["error"], self.document
        return str(self.document["error"])


def tensor(data: Any, shape: list[int], datatype: str = "FP32", name: str = "x") -> Any:
    """Return an input in REST's form."""
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def request(data: Any, shape: list[int], datatype: str = "FP32", **more: Any) -> Any:
    """Return a request with one input `x`."""
    return {"inputs": [tensor(data, shape, datatype)], **more}


ONE = request([1.0], [1])
"""The smallest request."""


def infer_rest(
    server: Server, model: str, document: Any, version: str | None = None
) -> Reply:
    """Send a request over REST."""
    path = f"/versions/{version}" if version else ""
    answer = server.post(f"/v2/models/{model}{path}/infer", json=document)
    return Reply(answer.status_code, answer.json(), answer.headers)


def infer_grpc(
    server: Server,
    model: str,
    document: Any,
    version: str | None = None,
    timeout_s: float = DEADLINE_S,
) -> Reply:
    """Send the same request over gRPC; the answer has REST's form."""
    wire = _wire_request(model, document, version)
    try:
        answer = rpc(server, "ModelInfer", wire, timeout_s)
    except grpc.RpcError as error:
        return Reply(error.code().name, {"error": error.details()})
    return Reply("OK", _document(answer))


def infer_both(
    server: Server, model: str, document: Any, version: str | None = None
) -> tuple[Reply, Reply]:
    """Send the same request over REST and over gRPC."""
    return (
        infer_rest(server, model, document, version),
        infer_grpc(server, model, document, version),
    )


def rpc(
    server: Server, method: str, wire: Any = None, timeout_s: float = DEADLINE_S
) -> Any:
    """Call an RPC; raise grpc.RpcError if it fails."""
    response = message(f"{method}Response")
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda sent: sent.SerializeToString(),
            response_deserializer=response.FromString,
        )
        sent = message(f"{method}Request")() if wire is None else wire
        return call(sent, timeout=timeout_s, wait_for_ready=True)


def rpc_error(
    server: Server, method: str, wire: Any = None, timeout_s: float = DEADLINE_S
) -> tuple[str, str]:
    """Return the code and the text of an RPC's error."""
    try:
        answer = rpc(server, method, wire, timeout_s)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError(f"{method} answered {answer}")


def _wire_request(model: str, document: Any, version: str | None) -> Any:
    wire = message("ModelInferRequest")(
        model_name=model, model_version=version or "", id=document.get("id", "")
    )
    _set_parameters(wire.parameters, document)
    for entry in document["inputs"]:
        added = wire.inputs.add(
            name=entry["name"], datatype=entry["datatype"], shape=entry["shape"]
        )
        _set_parameters(added.parameters, entry)
        values = [v.encode() if isinstance(v, str) else v for v in entry["data"]]
        field_name = CONTENTS.get(entry["datatype"], "fp32_contents")
        getattr(added.contents, field_name).extend(values)
    for entry in document.get("outputs", []):
        _set_parameters(wire.outputs.add(name=entry["name"]).parameters, entry)
    return wire


_CHOICES: dict[type, str] = {
    bool: "bool_param",
    int: "int64_param",
    float: "double_param",
    str: "string_param",
}


def _set_parameters(target: Any, entry: Any) -> None:
    for name, value in entry.get("parameters", {}).items():
        setattr(target[name], _CHOICES[type(value)], value)


def _parameters(entry: Any) -> dict[str, Any]:
    plain = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in entry.parameters.items()
    }
    return {"parameters": plain} if plain else {}


def _document(answer: Any) -> dict[str, Any]:
    outputs = []
    for output in answer.outputs:
        data = list(getattr(output.contents, CONTENTS[output.datatype]))
        if output.datatype == "BYTES":
            data = [value.decode() for value in data]
        outputs.append(
            {
                "name": output.name,
                "shape": list(output.shape),
                "datatype": output.datatype,
                **_parameters(output),
                "data": data,
            }
        )
    document: dict[str, Any] = {"model_name": answer.model_name}
    if answer.model_version:
        document["model_version"] = answer.model_version
    if answer.id:
        document["id"] = answer.id
    return {**document, **_parameters(answer), "outputs": outputs}
