"""The calls other than inference, in one form for REST and gRPC."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from oip_host.edge.grpc.messages import message
from support.process import DEADLINE_S, Server, wait_for
from support.wire import Reply, rpc

PROTOCOLS = ("rest", "grpc")
OK = {"rest": 200, "grpc": "OK"}
FORBIDDEN = {"rest": 403, "grpc": "PERMISSION_DENIED"}
NOT_FOUND = {"rest": 404, "grpc": "NOT_FOUND"}
NOT_READY = {"rest": 503, "grpc": "UNAVAILABLE"}


def _rest(server: Server, method: str, path: str, **options: Any) -> Reply:
    answer = getattr(server, method)(path, **options)
    return Reply(answer.status_code, answer.json(), answer.headers)


def _grpc(server: Server, method: str, **fields: Any) -> Reply:
    wire = message(f"{method}Request")(**fields)
    try:
        answer = rpc(server, method, wire)
    except grpc.RpcError as error:
        return Reply(error.code().name, {"error": error.details()})
    shown = MessageToDict(answer, preserving_proto_field_name=True)
    return Reply("OK", shown)


def change(server: Server, protocol: str, action: str, model: str) -> Reply:
    """Load or unload a model, as `action` says."""
    if protocol == "rest":
        return _rest(server, "post", f"/v2/repository/models/{model}/{action}")
    return _grpc(server, f"RepositoryModel{action.title()}", model_name=model)


def index(
    server: Server, protocol: str = "rest", ready: bool = False
) -> list[dict[str, str]]:
    """Return the index; fields that gRPC leaves out are empty text."""
    if protocol == "rest":
        body = {"json": {"ready": True}} if ready else {}
        reply = _rest(server, "post", "/v2/repository/index", **body)
    else:
        reply = _grpc(server, "RepositoryIndex", ready=ready)
    assert OK[protocol] == reply.status
    entries: Any = reply.document
    if protocol == "grpc":
        entries = entries.get("models", [])
    fields = ("name", "version", "state", "reason")
    return [{field: entry.get(field, "") for field in fields} for entry in entries]


def states(server: Server, model: str) -> list[str]:
    """Return the states of a model's versions."""
    return [entry["state"] for entry in index(server) if entry["name"] == model]


def described(
    server: Server, protocol: str, what: str, model: str = "", version: str = ""
) -> Reply:
    """Return `config`, `stats` or `metadata` of a model, or the `stats` of all."""
    if protocol == "grpc":
        names = {"config": "Config", "stats": "Statistics", "metadata": "Metadata"}
        return _grpc(server, f"Model{names[what]}", name=model, version=version)
    parts = ["/v2/models", model, "versions" if version else "", version]
    parts += ["" if what == "metadata" else what]
    return _rest(server, "get", "/".join(filter(None, parts)))


def health(server: Server, service: str = "") -> str:
    """Return the status of the standard health service."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        answer = stub.Check(request, timeout=DEADLINE_S, wait_for_ready=True)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def agreed(server: Server, model: str = "") -> bool:
    """Return whether the server or a model is ready; all protocols must agree."""
    path = f"/v2/models/{model}/ready" if model else "/v2/health/ready"
    if model:
        wire = message("ModelReadyRequest")(name=model)
        over_grpc = rpc(server, "ModelReady", wire).ready
    else:
        over_grpc = rpc(server, "ServerReady").ready
    seen = {
        "REST": server.get(path).status_code == 200,
        "gRPC": bool(over_grpc),
        "health": health(server, model) == "SERVING",
    }
    if model:
        seen["V1"] = server.get(f"/v1/models/{model}").status_code == 200
    assert len(set(seen.values())) == 1, seen
    return seen["REST"]


def wait_until(server: Server, ready: bool, model: str = "") -> None:
    """Wait until REST reports this readiness; then all protocols must do so."""
    path = f"/v2/models/{model}/ready" if model else "/v2/health/ready"
    status = 200 if ready else 503
    wait_for(lambda: server.get(path).status_code == status, f"{path}: {status}")
    assert agreed(server, model) is ready


def metric(server: Server, name: str, **labels: str) -> float:
    """Return the sum of a name's samples whose labels include these."""
    return metric_of(server.get("/metrics").text, name, **labels)


def metric_of(text: str, name: str, **labels: str) -> float:
    """Return the same sum in the text of a scrape."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
