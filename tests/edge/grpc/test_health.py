"""The standard health service of gRPC, and reflection."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from oip_host.edge.grpc.messages import SERVICE
from oip_host.edge.grpc.service import RPCS
from support.control import change, health
from support.process import Server, wait_for

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A host with a ready model, one that comes and goes, and one that failed."""
    life = tmp_path_factory.mktemp("life")
    with Server(
        "--handlers=echo=fakes:Echo,guest=fakes.lives:Fickle,failed=fakes:LoadFalse?",
        "--model_control=explicit",
        env={"LIFE_DIR": str(life)},
    ) as server:
        yield server.wait_until_ready()


class Watcher:
    """A thread that watches a service and keeps every status that it receives."""

    def __init__(self, server: Server, service: str) -> None:
        self.seen: list[str] = []
        self.end: Any = None
        self._channel = grpc.insecure_channel(server.grpc_address)
        stub = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest(service=service)
        self._call = stub.Watch(request, timeout=60, wait_for_ready=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        names = health_pb2.HealthCheckResponse.ServingStatus
        try:
            for answer in self._call:
                self.seen.append(names.Name(answer.status))
        except grpc.RpcError as error:
            self.end = error.code().name
        else:
            self.end = "OK"

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._call.cancel()
        self._thread.join(30)
        self._channel.close()

    def wait_for(self, *seen: str) -> None:
        wait_for(lambda: self.seen == list(seen), f"{seen}, not {self.seen}")


@pytest.mark.parametrize(
    ("service", "status"),
    [
        ("", "SERVING"),
        (SERVICE, "SERVING"),
        ("echo", "SERVING"),
        ("failed", "NOT_SERVING"),
    ],
    ids=["server", "protocol", "model", "failed model"],
)
def test_check_reports_the_server_and_each_model(
    host: Server, service: str, status: str
) -> None:
    """The empty name and the protocol's mean the server; any other name is a model."""
    assert status == health(host, service)


def test_check_of_an_unknown_service_is_not_found(host: Server) -> None:
    """An unknown service is NOT_FOUND, with the same text as in other calls."""
    with pytest.raises(grpc.RpcError) as caught:
        health(host, "nobody")
    text = "model 'nobody' is not on this server"
    assert ("NOT_FOUND", text) == (caught.value.code().name, caught.value.details())


def test_watch_reports_the_state_and_each_change(host: Server) -> None:
    """The first status comes at once, and another one whenever the model changes.

    The server's own status does not change when a model is unloaded.
    """
    with Watcher(host, "guest") as guest, Watcher(host, "") as server:
        guest.wait_for("SERVING")
        server.wait_for("SERVING")
        change(host, "rest", "unload", "guest")
        guest.wait_for("SERVING", "NOT_SERVING")
        change(host, "grpc", "load", "guest")
        guest.wait_for("SERVING", "NOT_SERVING", "SERVING")
        assert ["SERVING"] == server.seen
        assert guest.end is None


def test_watch_of_an_unknown_service_goes_on(host: Server) -> None:
    """SERVICE_UNKNOWN is a status here, not an error, as the health protocol says."""
    with Watcher(host, "nobody") as watcher:
        watcher.wait_for("SERVICE_UNKNOWN")
        assert watcher.end is None


def test_watch_follows_the_start(serve: Callable[..., Server], tmp_path: Path) -> None:
    """A client that watches a starting server learns when it is ready."""
    (tmp_path / "slow.hold").touch()
    server = serve(
        "--handlers=slow=fakes.lives:Fickle", env={"LIFE_DIR": str(tmp_path)}
    )
    with Watcher(server, "") as watcher, Watcher(server, "slow") as model:
        watcher.wait_for("NOT_SERVING")
        model.wait_for("NOT_SERVING")
        (tmp_path / "slow.hold").unlink()
        watcher.wait_for("NOT_SERVING", "SERVING")
        model.wait_for("NOT_SERVING", "SERVING")


def test_watch_ends_with_the_server(
    serve: Callable[..., Server],
) -> None:
    """A stopping server reports NOT_SERVING and does not wait for watchers."""
    server = serve("--handlers=echo=fakes:Echo", "--grace_period_s=100")
    server.wait_until_ready()
    with Watcher(server, "") as watcher:
        watcher.wait_for("SERVING")
        server.process.send_signal(signal.SIGTERM)
        assert 0 == server.wait()
        watcher.wait_for("SERVING", "NOT_SERVING")
        wait_for(lambda: watcher.end == "OK", "the end of the watch")


# -- reflection ---------------------------------------------------------------


@pytest.fixture(scope="module")
def reflected(host: Server) -> Iterator[Any]:
    """Return what a client without a proto file learns."""
    with grpc.insecure_channel(host.grpc_address) as channel:
        yield ProtoReflectionDescriptorDatabase(channel), channel


def test_reflection_lists_the_services(reflected: Any) -> None:
    """Reflection lists exactly the services that the host serves."""
    assert {SERVICE, HEALTH, REFLECTION} == set(reflected[0].get_services())


@pytest.mark.parametrize(
    ("service", "methods"),
    [
        (SERVICE, {*RPCS, "ModelInfer"}),
        (HEALTH, {"Check", "Watch", "List"}),
        (REFLECTION, {"ServerReflectionInfo"}),
    ],
    ids=["inference", "health", "reflection"],
)
def test_reflection_describes_the_services(
    reflected: Any, service: str, methods: set[str]
) -> None:
    """Every method is described, with its messages."""
    pool = descriptor_pool.DescriptorPool(reflected[0])
    described = pool.FindServiceByName(service)
    # older versions of the health service have no List
    assert methods - {"List"} <= {one.name for one in described.methods} <= methods
    for one in described.methods:
        assert one.input_type.full_name
        assert one.output_type.full_name


def test_reflection_is_enough_to_infer(reflected: Any) -> None:
    """A client that knows only reflection, such as grpcurl, can send an inference."""
    database, channel = reflected
    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName(SERVICE).FindMethodByName("ModelInfer")
    sent, got = (
        message_factory.GetMessageClass(kind)
        for kind in (method.input_type, method.output_type)
    )
    wire = sent(model_name="echo", id="7")
    tensor = wire.inputs.add(name="x", datatype="FP32", shape=[1])
    tensor.contents.fp32_contents.append(1.5)
    call = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=lambda one: one.SerializeToString(),
        response_deserializer=got.FromString,
    )
    answer = call(wire, timeout=30)
    assert ("echo", "7") == (answer.model_name, answer.id)
    assert [1.5] == list(answer.outputs[0].contents.fp32_contents)
