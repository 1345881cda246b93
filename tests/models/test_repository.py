"""The model repository extension: index, load, reload and unload while serving."""

from __future__ import annotations

import gc
import json
import socket
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from oip_host import ModelMetadataResponse
from oip_host.edge.grpc.messages import SERVICE, message
from oip_host.model_server import AissembleOIPKServe
from oip_host.models.registry import Registry
from oip_host.models.repository import Repository
from support.control import (
    FORBIDDEN,
    NOT_FOUND,
    NOT_READY,
    OK,
    PROTOCOLS,
    agreed,
    change,
    described,
    index,
    metric,
    states,
)
from support.process import SUPPORT, Server, run, wait_for
from support.wire import ONE, Reply, infer_both, infer_grpc, infer_rest, request

ASK = {"rest": infer_rest, "grpc": infer_grpc}
UNLOADED = "model '{0}' version '1' is not ready: unloaded"
NAMES = (
    "echo", "busy", "swapped", "late", "broken", "contended", "stable", "gone", "left",
    "counted", "held", "steady", "async",
)  # fmt: skip
"""A model for each test that changes one."""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("life")


@pytest.fixture(scope="module")
def host(life: Path) -> Iterator[Server]:
    """A server whose repository may be changed."""
    (life / "failed.fail").touch()
    models = [f"{name}=fakes.lives:Fickle" for name in NAMES if name != "async"]
    models += [
        "async=fakes.lives:FickleAsync",
        "failed=fakes.lives:Fickle?",
        "two@1=fakes.lives:Fickle",
    ]
    models += ["two@2=fakes.lives:Fickle", "spare=fakes:LoadFalse?"]
    with Server(
        f"--handlers={','.join(models)}",
        "--model_control=explicit",
        *(f"--models.{name}.max_queue=2" for name in ("busy", "async")),
        *(f"--models.{name}.max_concurrency=2" for name in ("busy", "async")),
        "--models.held.max_concurrency=3",
        env={"LIFE_DIR": str(life), "GATE_DIR": str(life)},
    ) as server:
        yield server.wait_until_ready()


@pytest.fixture(scope="module")
def closed() -> Iterator[Server]:
    """A server with the default `model_control`."""
    with Server("--handlers=echo=fakes:Echo,spare=fakes:LoadFalse?") as server:
        yield server.wait_until_ready()


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Run a call in a separate thread."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def held(gate: str) -> Any:
    return request([gate], [1], "BYTES")


def told(reply: Reply, what: str = "generation") -> int:
    """Return a number that Fickle reports about itself."""
    return int(reply.document["parameters"][what])


# -- index --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_index_lists_versions_with_state_and_reason(
    host: Server, protocol: str
) -> None:
    """Each version of each model is listed once, a failed one with its reason."""
    entries = index(host, protocol)
    versions = [(entry["name"], entry["version"]) for entry in entries]
    assert [("two", "2"), ("two", "1")] == [v for v in versions if v[0] == "two"]
    assert len(NAMES) + 4 == len(set(versions)) == len(versions)
    spare = next(entry for entry in entries if entry["name"] == "spare")
    assert {
        "name": "spare",
        "version": "1",
        "state": "UNAVAILABLE",
        "reason": "model_load returned False",
    } == spare
    stable = next(entry for entry in entries if entry["name"] == "stable")
    assert ("READY", "") == (stable["state"], stable["reason"])


def test_index_is_the_same_on_both_protocols(host: Server) -> None:
    """REST and gRPC list the same entries in the same order, filtered or not."""
    for ready in (False, True):
        assert index(host, "rest", ready) == index(host, "grpc", ready)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ready_index_lists_ready_models_only(host: Server, protocol: str) -> None:
    """The filter `ready` leaves out models that cannot answer."""
    everything = index(host, protocol)
    expected = [entry for entry in everything if entry["state"] == "READY"]
    assert expected == index(host, protocol, ready=True)
    assert "spare" not in {entry["name"] for entry in expected}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": false}', b'{"other": 1}'])
def test_index_needs_no_body(host: Server, body: bytes) -> None:
    """Without a filter, and with unknown fields, all models are listed."""
    answer = host.post("/v2/repository/index", content=body)
    assert 200 == answer.status_code
    assert index(host) == answer.json()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"rubbish", "JSON"),
        (b"[]", "object"),
        (b'"ready"', "object"),
        (b'{"ready": 1}', "ready"),
        (b'{"ready": "true"}', "ready"),
        (b"\xff\xfe", ""),
    ],
    ids=["no json", "array", "text", "number", "word", "no utf-8"],
)
def test_invalid_index_body_is_refused(host: Server, body: bytes, word: str) -> None:
    """A body that is no index request is a 400 that names the mistake."""
    answer = host.post("/v2/repository/index", content=body)
    assert (400, ["error"]) == (answer.status_code, list(answer.json()))
    assert word in answer.json()["error"]


@pytest.mark.parametrize("action", ["load", "unload"])
def test_invalid_body_changes_nothing(host: Server, action: str) -> None:
    """A load or unload whose body is not an object is a 400."""
    answer = host.post(f"/v2/repository/models/stable/{action}", content=b"[1")
    assert (400, ["error"]) == (answer.status_code, list(answer.json()))
    assert ["READY"] == states(host, "stable")


@pytest.mark.parametrize(
    "path", ["index", "models/stable/load", "models/stable/unload"]
)
def test_repository_paths_require_post(host: Server, path: str) -> None:
    """Another method is a 405 and changes nothing."""
    answer = host.get(f"/v2/repository/{path}")
    assert (405, ["error"]) == (answer.status_code, list(answer.json()))
    assert ["READY"] == states(host, "stable")


# -- permission ---------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize("model", ["echo", "nobody"])
def test_load_and_unload_are_forbidden_by_default(
    closed: Server, protocol: str, action: str, model: str
) -> None:
    """Load and unload are refused; the error names the option and its value."""
    reply = change(closed, protocol, action, model)
    text = (
        f"model '{model}' cannot be loaded or unloaded: oip_model_control is 'none', "
        "expected 'explicit'"
    )
    assert (FORBIDDEN[protocol], text) == (reply.status, reply.error)
    assert [200, "OK"] == [one.status for one in infer_both(closed, "echo", ONE)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_index_is_allowed_by_default(closed: Server, protocol: str) -> None:
    """The index works on a server that forbids load and unload."""
    found = {entry["name"]: entry["state"] for entry in index(closed, protocol)}
    assert {"echo": "READY", "spare": "UNAVAILABLE"} == found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("action", ["load", "unload"])
def test_unknown_model_is_not_found(host: Server, protocol: str, action: str) -> None:
    """Load and unload find only models of this server."""
    reply = change(host, protocol, action, "nobody")
    text = "model 'nobody' is not on this server"
    assert (NOT_FOUND[protocol], text) == (reply.status, reply.error)


# -- load and unload ----------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_model_is_unloaded_and_loaded(host: Server, life: Path, protocol: str) -> None:
    """An unloaded model is unavailable on all protocols; a load brings a new instance.

    The handler's `model_unload` was called, and the server stays ready meanwhile.
    """
    (life / "echo.unloaded").unlink(missing_ok=True)
    before = told(infer_rest(host, "echo", ONE))
    assert OK[protocol] == change(host, protocol, "unload", "echo").status
    entry = next(entry for entry in index(host) if entry["name"] == "echo")
    assert ("UNAVAILABLE", "unloaded") == (entry["state"], entry["reason"])
    for one, reply in zip(PROTOCOLS, infer_both(host, "echo", ONE), strict=True):
        text = UNLOADED.format("echo")
        assert (NOT_READY[one], text) == (reply.status, reply.error)
    assert f"{before}\n" == (life / "echo.unloaded").read_text()
    assert not agreed(host, "echo")
    assert agreed(host)
    assert 0 == metric(host, "oip_model_ready", model_name="echo")
    assert OK[protocol] == change(host, protocol, "load", "echo").status
    assert before < told(infer_rest(host, "echo", ONE))
    assert agreed(host, "echo")
    assert 1 == metric(host, "oip_model_ready", model_name="echo")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unloading_twice_is_no_error(host: Server, life: Path, protocol: str) -> None:
    """A second unload does nothing: `model_unload` is called only once."""
    (life / "gone.unloaded").unlink(missing_ok=True)
    for _ in range(2):
        assert OK[protocol] == change(host, protocol, "unload", "gone").status
    assert ["UNAVAILABLE"] == states(host, "gone")
    assert 1 == len((life / "gone.unloaded").read_text().splitlines())
    assert OK[protocol] == change(host, protocol, "load", "gone").status


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["busy", "async"])
def test_unload_waits_for_requests_in_flight(
    host: Server,
    life: Path,
    background: Callable[..., Future[Any]],
    protocol: str,
    model: str,
) -> None:
    """Running and waiting requests are answered; requests after the unload are refused.

    The handler is unloaded only after the last answer.
    """
    gate = f"{model}-{protocol}"
    (life / f"{model}.unloaded").unlink(missing_ok=True)
    sent = [
        background(ask, host, model, held(gate)) for ask in (infer_rest, infer_grpc) * 3
    ]
    # of six, two run, two wait and two are refused
    wait_for(lambda: sum(reply.done() for reply in sent) == 2, "two refusals")
    unload = background(change, host, protocol, "unload", model)
    wait_for(lambda: states(host, model) == ["UNLOADING"], "unloading")
    text = f"model '{model}' version '1' is not ready: it is being unloaded"
    for one, reply in zip(PROTOCOLS, infer_both(host, model, ONE), strict=True):
        assert (NOT_READY[one], text) == (reply.status, reply.error)
    assert not unload.done()
    assert not (life / f"{model}.unloaded").exists()
    (life / f"{gate}.open").touch()
    answers = Counter(str(reply.result().status) for reply in sent)
    assert 4 == answers["200"] + answers["OK"]
    assert 2 == answers["503"] + answers["RESOURCE_EXHAUSTED"]
    assert OK[protocol] == unload.result().status
    assert (life / f"{model}.unloaded").exists()
    assert OK[protocol] == change(host, protocol, "load", model).status


def test_unload_goes_on_after_its_client_leaves(
    host: Server, life: Path, background: Callable[..., Future[Any]]
) -> None:
    """An unload whose client leaves while it waits is completed."""
    sent = background(infer_rest, host, "left", held("left"))
    wait_for((life / "left.started").exists, "the call")
    wire = message("RepositoryModelUnloadRequest")(model_name="left")
    with grpc.insecure_channel(host.grpc_address) as channel:
        unload = channel.unary_unary(f"/{SERVICE}/RepositoryModelUnload")
        asked = unload.future(wire.SerializeToString())
        wait_for(lambda: states(host, "left") == ["UNLOADING"], "the unload")
        asked.cancel()
        # on the same connection, so that the cancellation arrives before this call
        channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")
    (life / "left.open").touch()
    assert 200 == sent.result().status
    wait_for(lambda: states(host, "left") == ["UNAVAILABLE"], "its end")
    assert 1 == len((life / "left.unloaded").read_text().splitlines())


def test_load_and_unload_cover_all_versions(host: Server) -> None:
    """A load or unload applies to all versions of the name."""
    change(host, "rest", "unload", "two")
    assert ["UNAVAILABLE"] * 2 == states(host, "two")
    change(host, "grpc", "load", "two")
    assert ["READY"] * 2 == states(host, "two")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_model_that_failed_at_start_can_be_loaded_later(
    host: Server, life: Path, protocol: str
) -> None:
    """A load that fails again says why; after one that succeeds the model serves."""
    change(host, "rest", "unload", "failed")
    (life / "failed.fail").touch()
    reason = "RuntimeError: no weights today"
    text = f"model 'failed' version '1' is not ready: {reason}"
    reply = change(host, protocol, "load", "failed")
    assert (NOT_READY[protocol], text) == (reply.status, reply.error)
    entry = next(entry for entry in index(host) if entry["name"] == "failed")
    assert ("UNAVAILABLE", reason) == (entry["state"], entry["reason"])
    assert text == infer_rest(host, "failed", ONE).error
    (life / "failed.fail").unlink()
    assert OK[protocol] == change(host, protocol, "load", "failed").status
    assert [200, "OK"] == [one.status for one in infer_both(host, "failed", ONE)]


# -- reload -------------------------------------------------------------------


def ask_on(server: Server, protocol: str, model: str, stop: threading.Event) -> Any:
    """Send requests on one connection until `stop`; return status counts and instances.

    It sends 10,000 requests at most.
    """
    answers: Counter[Any] = Counter()
    instances = set()
    if protocol == "rest":
        with httpx.Client(base_url=server.url, timeout=30) as client:
            for _ in range(10_000):
                answer = client.post(f"/v2/models/{model}/infer", json=ONE)
                answers[answer.status_code] += 1
                if answer.status_code == 200:
                    instances.add(answer.json()["parameters"]["generation"])
                if stop.is_set():
                    break
        return answers, instances
    wire = message("ModelInferRequest")(model_name=model)
    wire.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(
        1
    )
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=lambda sent: sent.SerializeToString(),
            response_deserializer=message("ModelInferResponse").FromString,
        )
        for _ in range(10_000):
            try:
                reply = call(wire, timeout=30)
                answers["OK"] += 1
                instances.add(reply.parameters["generation"].int64_param)
            except grpc.RpcError as error:
                answers[error.code().name] += 1
            if stop.is_set():
                break
    return answers, instances


def test_reload_has_no_gap(
    host: Server, life: Path, background: Callable[..., Future[Any]]
) -> None:
    """Under load from many clients every request is answered through many reloads.

    Each old instance is unloaded after its successor has taken over.
    """
    stop = threading.Event()
    clients = [
        background(ask_on, host, protocol, "swapped", stop)
        for protocol in ("rest", "rest", "rest", "grpc", "grpc")
    ]
    try:
        reloads = [
            change(host, PROTOCOLS[n % 2], "load", "swapped").status for n in range(20)
        ]
    finally:
        stop.set()
    results = [client.result() for client in clients]
    assert [200, "OK"] * 10 == reloads
    total = sum((answers for answers, _ in results), Counter[Any]())
    assert {200, "OK"} == set(total), total
    assert 20 == len((life / "swapped.unloaded").read_text().splitlines())
    for _, instances in results:
        assert len(instances) > 1


def test_new_instance_answers_requests_queued_during_reload(
    host: Server,
) -> None:
    """A reload between a request's head and its body costs the client nothing."""
    before = told(infer_rest(host, "swapped", ONE))
    body = json.dumps(ONE).encode()
    head = (
        "POST /v2/models/swapped/infer HTTP/1.1\r\nHost: test\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n"
        "Connection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", host.http_port), 30) as connection:
        connection.sendall(head.encode())
        # sent when the body is asked for, so after the model was found
        assert b"100 Continue" in connection.recv(1000)
        assert 200 == change(host, "rest", "load", "swapped").status
        connection.sendall(body)
        with connection.makefile("rb") as stream:
            status, _, rest = stream.read().partition(b"\r\n")
    assert b"HTTP/1.1 200 OK" == status
    answer = json.loads(rest.partition(b"\r\n\r\n")[2])
    assert before < answer["parameters"]["generation"]


def test_old_instance_answers_what_it_accepted(
    host: Server, life: Path, background: Callable[..., Future[Any]]
) -> None:
    """The old instance finishes its requests while the new one already answers."""
    before = told(infer_rest(host, "held", ONE))
    sent = [
        background(ask, host, "held", held(f"held-{protocol}"))
        for protocol, ask in ASK.items()
    ]
    for protocol in ASK:
        wait_for((life / f"held-{protocol}.started").exists, "the call")
    reload = background(change, host, "rest", "load", "held")
    wait_for(lambda: before < told(infer_rest(host, "held", ONE)), "the new instance")
    assert [False] * 3 == [one.done() for one in (*sent, reload)]
    assert not (life / "held.unloaded").exists()
    for protocol in ASK:
        (life / f"held-{protocol}.open").touch()
    assert [before, before] == [told(reply.result()) for reply in sent]
    assert 200 == reload.result().status
    assert f"{before}\n" == (life / "held.unloaded").read_text()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_failed_reload_keeps_the_old_instance(
    host: Server, life: Path, protocol: str
) -> None:
    """The error says why, and the old instance serves as before on all protocols."""
    before = told(infer_rest(host, "broken", ONE))
    (life / "broken.fail").touch()
    reply = change(host, protocol, "load", "broken")
    (life / "broken.fail").unlink()
    assert NOT_READY[protocol] == reply.status
    assert "RuntimeError: no weights today" in reply.error
    assert "model 'broken'" in reply.error
    assert [before] * 2 == [told(one) for one in infer_both(host, "broken", ONE)]
    assert ["READY"] == states(host, "broken")
    assert agreed(host, "broken")
    assert 1 == metric(host, "oip_model_ready", model_name="broken")
    assert not (life / "broken.unloaded").exists()


def test_model_answers_while_it_reloads(
    host: Server, life: Path, background: Callable[..., Future[Any]]
) -> None:
    """The old instance answers and stays ready while the new one takes long to load."""
    before = told(infer_rest(host, "late", ONE))
    (life / "late.loading").unlink()
    (life / "late.hold").touch()
    reload = background(change, host, "rest", "load", "late")
    wait_for((life / "late.loading").exists, "the load")
    assert [before] * 2 == [told(one) for one in infer_both(host, "late", ONE)]
    assert agreed(host, "late")
    assert agreed(host)
    assert not reload.done()
    (life / "late.hold").unlink()
    assert 200 == reload.result().status
    assert before < told(infer_rest(host, "late", ONE))


def test_statistics_and_metrics_survive_a_reload(host: Server) -> None:
    """Counts belong to the model, not to one instance of it."""

    def counted() -> tuple[int, float]:
        stats = described(host, "rest", "stats", "counted").document["model_stats"]
        total = metric(host, "oip_requests_total", model_name="counted")
        return stats[0]["inference_stats"]["success"]["count"], total

    infer_both(host, "counted", ONE)
    assert (2, 2) == counted()
    change(host, "rest", "load", "counted")
    assert (2, 2) == counted()
    infer_both(host, "counted", ONE)
    assert (4, 4) == counted()
    change(host, "rest", "unload", "counted")
    assert (4, 4) == counted()
    change(host, "rest", "load", "counted")
    infer_both(host, "counted", ONE)
    assert (6, 6) == counted()


def test_concurrent_loads_and_unloads_are_consistent(
    host: Server, life: Path, background: Callable[..., Future[Any]]
) -> None:
    """Loads and unloads of one model run one after the other, on both protocols.

    At the end one instance is left, and each other one was unloaded once.
    """
    changes = [
        background(
            change, host, PROTOCOLS[n % 2], "load" if n % 3 else "unload", "contended"
        )
        for n in range(24)
    ]
    assert {200, "OK"} == {one.result().status for one in changes}
    state = states(host, "contended")
    assert agreed(host, "contended") is (state == ["READY"])
    ready = metric(host, "oip_model_ready", model_name="contended")
    assert ready == (state == ["READY"])
    change(host, "rest", "unload", "contended")
    let_go = (life / "contended.unloaded").read_text().split()
    assert len(let_go) == len(set(let_go))
    assert 200 == change(host, "rest", "load", "contended").status
    assert [200, "OK"] == [one.status for one in infer_both(host, "contended", ONE)]


def test_unload_at_startup_waits_for_the_load(
    life: Path, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """A model unloaded during its first load ends up unloaded, its handler too."""
    (tmp_path / "slow.hold").touch()
    server = serve(
        "--handlers=slow=fakes.lives:Fickle",
        "--model_control=explicit",
        env={"LIFE_DIR": str(tmp_path), "GATE_DIR": str(tmp_path)},
    )
    wait_for((tmp_path / "slow.loading").exists, "the load")
    assert ["LOADING"] == states(server, "slow")
    with ThreadPoolExecutor(1) as pool:
        unload = pool.submit(change, server, "rest", "unload", "slow")
        assert 503 == infer_rest(server, "slow", ONE).status
        (tmp_path / "slow.hold").unlink()
        assert 200 == unload.result().status
    assert ["UNAVAILABLE"] == states(server, "slow")
    assert (tmp_path / "slow.unloaded").exists()
    assert agreed(server)


def test_instances_do_not_pile_up(host: Server) -> None:
    """Five reloads leave only one instance of the model in memory."""
    asked = {**ONE, "id": "count"}
    before = told(infer_rest(host, "steady", asked), "alive")
    for _ in range(5):
        assert 200 == change(host, "rest", "load", "steady").status
    wait_for(
        lambda: told(infer_rest(host, "steady", asked), "alive") == before,
        "the end of the old instances",
    )


class Witness:
    """A handler to which a test keeps only a weak reference."""

    def infer(self, payload: Any, model_name: str, model_version: Any = None) -> Any:
        raise NotImplementedError

    def model_metadata(self, model_name: str, model_version: Any = None) -> Any:
        return ModelMetadataResponse(
            name=model_name, platform="test", inputs=[], outputs=[]
        )

    def model_load(self, model_name: str) -> bool:
        return True


async def test_unload_frees_the_handler() -> None:
    """Nothing keeps the handler alive after its unload."""
    model = AissembleOIPKServe("witness", Witness)
    repository = Repository(Registry([model]), "explicit")
    await repository.load("witness")
    registered = repository.index()
    assert "READY" == registered[0]["state"]
    model = next(iter(repository._registry))
    handler = weakref.ref(model.model_handler)
    assert handler() is not None
    await repository.unload("witness")
    gc.collect()
    assert handler() is None


# -- the clients --------------------------------------------------------------


def test_kserves_client_loads_and_unloads(host: Server) -> None:
    """KServe's stub, which has its own field numbers, loads and unloads."""
    program = str(SUPPORT / "repository_kserve.py")
    done = run(sys.executable, program, host.url, host.grpc_address)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {"model_name": "echo", "isUnloaded": True} == seen["unload"]
    assert {"model_name": "echo", "isLoaded": True} == seen["load"] == seen["reload"]
    text = "model '{}' is not on this server"
    assert ["NOT_FOUND", text.format("nobody")] == seen["unknown load"]
    assert ["NOT_FOUND", text.format("none")] == seen["unknown unload"]
    assert seen["ready"] is True


def test_tritons_clients_control_the_repository(host: Server) -> None:
    """Triton's HTTP and gRPC clients load, unload and list models."""
    pytest.importorskip("tritonclient")
    program = str(SUPPORT / "repository_triton.py")
    http = host.url.removeprefix("http://")
    done = run(sys.executable, program, http, host.grpc_address, "echo")
    assert done.returncode == 0, done.stderr
    for protocol, seen in json.loads(done.stdout).items():
        for key, state, ready in (
            ("unloaded", "UNAVAILABLE", False),
            ("loaded", "READY", True),
        ):
            entries, is_ready = seen[key]
            found = next(entry for entry in entries if entry["name"] == "echo")
            assert (state, "1") == (found["state"], found["version"])
            assert is_ready is ready
        status = {"http": "404", "grpc": "StatusCode.NOT_FOUND"}[protocol]
        expected = [status, "model 'nobody' is not on this server"]
        for action in ("load", "unload"):
            assert expected == seen["unknown"][action]


def test_load_refuses_parameters(host: Server) -> None:
    """A configuration or a file in a load is refused, never ignored silently."""
    answer = host.post(
        "/v2/repository/models/echo/load", json={"parameters": {"config": "{}"}}
    )
    loading = message("RepositoryModelLoadRequest")(model_name="echo")
    loading.parameters["config"].string_param = "{}"
    with (
        grpc.insecure_channel(host.grpc_address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(f"/{SERVICE}/RepositoryModelLoad")(
            loading.SerializeToString(), timeout=30
        )
    text = (
        "parameters: found 'config', expected none: "
        "a model is loaded with the host's own configuration"
    )
    assert (400, {"error": text}) == (answer.status_code, answer.json())
    assert (grpc.StatusCode.INVALID_ARGUMENT, text) == (
        caught.value.code(),
        caught.value.details(),
    )


def test_parameters_must_be_an_object(host: Server) -> None:
    """Parameters of another type are a 400."""
    answer = host.post("/v2/repository/models/echo/load", json={"parameters": 5})
    text = "parameters: found the int 5, expected an object"
    assert (400, {"error": text}) == (answer.status_code, answer.json())


def test_null_filter_counts_as_absent(host: Server) -> None:
    """A null field counts as absent, in the index too."""
    answers = [
        host.post("/v2/repository/index", json=asked).json()
        for asked in ({}, {"ready": None})
    ]
    assert answers[0] == answers[1]
