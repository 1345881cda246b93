"""For a client, models in replicas of Ray Serve are like models in the host."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from support.carriers import LENGTH, raw
from support.clusters import processes_of
from support.process import Server, wait_for
from support.wire import Reply, infer_both, infer_grpc, infer_rest, request, rpc

pytestmark = pytest.mark.timeout(300)

HANDLERS = (
    "many=fakes.replicas:Obeys",
    "again=fakes.replicas:Again",
    "former=fakes.replicas:Former",
    "reuses=fakes.replicas:Reuses",
    "flawed=fakes.replicas:Flawed?",
    "local=fakes.replicas:Obeys",
    "wrong=fakes.logs:Wrong",
)
MODELS = {
    "many": {"replicas": 2, "num_cpus": 0.5, "max_ongoing_requests": 2, "max_queue": 2},
    "again": {"replicas": 1, "timeout_s": 60},
    "former": {"replicas": 1},
    "reuses": {"replicas": 1, "max_ongoing_requests": 4},
    "flawed": {"replicas": 1},
    "local": {"max_queue": 2},
    "wrong": {"replicas": 1, "num_cpus": 0},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the handlers and the tests share."""
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[Server]:
    """A host with its own Ray and without a home directory to write to."""
    variables = {
        "OIP_MODELS": json.dumps(MODELS),
        "REPLICA_DIR": str(directory),
        "HOME": "/nonexistent",
    }
    arguments = (f"--handlers={','.join(HANDLERS)}", "--model_control=explicit")
    with Server(*arguments, env=variables) as server:
        wait_for(lambda: settled(server), "the end of all loads", 180)
        yield server


def settled(server: Server) -> bool:
    index = server.post("/v2/repository/index").json()
    return all(model["state"] != "LOADING" for model in index)


def order(text: str) -> Any:
    """Return a request that makes the handler do something."""
    return request([text], [1], "BYTES")


def told(server: Server, model: str, text: str) -> str:
    """Send an order to the handler and return its outcome."""
    answer = infer_rest(server, model, order(text))
    assert 200 == answer.status, answer.document
    return str(answer.document["outputs"][0]["data"][0])


def lives(directory: Path, model: str) -> list[str]:
    path = directory / f"{model}.life"
    return path.read_text().splitlines() if path.exists() else []


def processes(server: Server, model: str, replicas: int) -> set[int]:
    """Return the processes of a model's replicas, once all of them have answered."""
    seen: set[int] = set()

    def all_seen() -> bool:
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(
                lambda _: infer_rest(server, model, order("tell process")), range(4)
            )
            found = [a.document["outputs"][0]["data"][0] for a in answers]
        seen.update(map(int, found))
        return len(seen) >= replicas

    wait_for(all_seen, f"answers of {replicas} replicas")
    return seen


# -- as in the host -----------------------------------------------------------


def test_host_is_ready_with_its_replicas(host: Server) -> None:
    """Local and replicated models run side by side, and both count for readiness."""
    assert 200 == host.get("/v2/health/ready").status_code
    assert rpc(host, "ServerReady").ready
    index = {m["name"]: m["state"] for m in host.post("/v2/repository/index").json()}
    names = ["many", "again", "former", "reuses", "wrong", "local"]
    ready = dict.fromkeys(names, "READY")
    assert {**ready, "flawed": "UNAVAILABLE"} == index


def test_replica_answers_on_both_protocols(host: Server) -> None:
    """Names, versions, ids and parameters are as those of a local model."""
    document = {**request([1.5, 2.5], [2]), "id": "mine"}
    for reply in infer_both(host, "many", document):
        assert reply.status in (200, "OK"), reply
        assert ("many", "1", "mine") == tuple(
            reply.document[key] for key in ("model_name", "model_version", "id")
        )
        assert [1.5, 2.5] == reply.document["outputs"][0]["data"]


def test_request_has_the_same_id_in_its_replica(host: Server) -> None:
    """The client's request id is also the request's id in the replica's process."""
    headers = {"x-request-id": "over-there"}
    path, document = "/v2/models/many/infer", order("tell request")
    answer = host.post(path, json=document, headers=headers)
    assert "over-there" == answer.json()["outputs"][0]["data"][0]
    assert "over-there" == answer.headers["x-request-id"]


def test_metadata_and_configuration_are_the_handlers(host: Server) -> None:
    """A replicated model is described like a local one, apart from its name."""
    for path in ("", "/config"):
        replicated = host.get(f"/v2/models/many{path}").json()
        local = host.get(f"/v2/models/local{path}").json()
        assert local == {**replicated, "name": "local"}


@pytest.mark.parametrize(
    "wrong",
    [
        order("fail ValueError"),
        order("fail TypeError"),
        order("fail RuntimeError"),
        order("fail NotImplementedError"),
        order("fail SystemExit"),
        order("fail InvalidRequest"),
        order("fail ModelNotReady"),
        order("fail HandlerFault"),
        request([1.0], [2]),
        request([300], [1], "UINT8"),
        {**request([1.0], [1]), "outputs": [{"name": "none"}]},
    ],
    ids=lambda wrong: str(wrong["inputs"][0]["data"][0]),
)
def test_errors_are_those_of_a_local_model(host: Server, wrong: Any) -> None:
    """Status, code and text have no traceback, path or address added."""
    replicated = infer_both(host, "many", wrong)
    local = infer_both(host, "local", wrong)
    for here, there in zip(local, replicated, strict=True):
        assert here.status == there.status
        assert here.error.replace("'local'", "'many'") == there.error


def test_exception_in_a_replica_is_logged_once(host: Server) -> None:
    """The host logs its traceback with the id of the request."""
    headers = {"x-request-id": "order-4711"}
    body = request([1.0], [1])
    answer = host.post("/v2/models/wrong/infer", json=body, headers=headers)
    assert 400 == answer.status_code
    line = "infer of model 'wrong' version '1' raised TypeError, answering"
    wait_for(lambda: "return weights[0]" in host.log, "the traceback")
    (logged,) = [each for each in host.log.splitlines() if line in each]
    assert logged.endswith("InvalidRequest (400) request_id=order-4711")


def test_kserve_model_answers_v1_and_v2(host: Server) -> None:
    """A `kserve.Model` in a replica gets the V1 body unchanged."""
    answer = host.post("/v1/models/former:predict", json={"instances": [1, 2]})
    assert (200, {"predictions": [2, 4]}) == (answer.status_code, answer.json())
    wrong = host.post("/v1/models/former:predict", json={"instances": ["wrong"]})
    assert (400, {"error": "the model's own words"}) == (
        wrong.status_code,
        wrong.json(),
    )
    for reply in infer_both(host, "former", request([1.0, 2.0], [2])):
        assert [2.0, 4.0] == reply.document["outputs"][0]["data"]


def test_large_tensors_travel_as_buffers(host: Server) -> None:
    """The handler reads the tensor in the memory of Ray's object store."""
    array = np.arange(150_528, dtype=np.float32)
    data = raw(array)
    head = {
        "inputs": [
            {
                "name": "x",
                "shape": [array.size],
                "datatype": "FP32",
                "parameters": {"binary_data_size": len(data)},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    answer = host.post(
        "/v2/models/again/infer",
        content=text + data,
        headers={LENGTH: str(len(text))},
    )
    length = int(answer.headers[LENGTH])
    document = json.loads(answer.content[:length])
    assert document["parameters"]["borrowed"] is True
    assert data == answer.content[length:]


def test_each_request_gets_its_own_answer(host: Server) -> None:
    """A handler that reuses the memory of its answers spoils no answer on its way."""

    def ask(number: int) -> set[float]:
        reply = infer_rest(host, "reuses", request([float(number)], [1]))
        return set(reply.document["outputs"][0]["data"])

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(12)))
    assert [{float(number)} for number in range(12)] == answers


def test_handler_that_fails_to_load_gives_its_reason(host: Server) -> None:
    """The reason is the handler's, without Ray's text around it."""
    text = "model 'flawed' version '1' is not ready: OSError: no weights here"
    assert text == infer_rest(host, "flawed", request([1.0], [1])).error
    assert ("UNAVAILABLE", text) == (
        (reply := infer_grpc(host, "flawed", request([1.0], [1]))).status,
        reply.error,
    )


def test_each_replica_loads_its_handler_once(host: Server, directory: Path) -> None:
    """There are as many processes as replicas, and each has loaded once."""
    found = processes(host, "many", 2)
    assert 2 == len(found)
    loads = Counter(line for line in lives(directory, "many") if line[:5] == "load ")
    assert {f"load {process}": 1 for process in found} == {
        line: count for line, count in loads.items() if int(line.split()[1]) in found
    }


def test_answers_of_replicas_are_counted(host: Server) -> None:
    """Metrics and statistics cover replicated models like all others."""
    before = host.get("/v2/models/former/stats").json()["model_stats"][0]
    infer_both(host, "former", request([1.0], [1]))
    after = host.get("/v2/models/former/stats").json()["model_stats"][0]
    assert before["inference_count"] + 2 == after["inference_count"]
    metrics = host.get("/metrics").text
    name = 'oip_requests_total{model_name="former",model_version="1",outcome="ok"'
    assert f'{name},protocol="grpc"}}' in metrics
    assert 'request_predict_seconds_count{model_name="former"}' in metrics


def test_readiness_is_the_handlers_model_ready(host: Server, directory: Path) -> None:
    """The host calls the handler's `model_ready` in a replica."""
    path = directory / "again.unready"
    path.touch()
    try:
        assert 503 == host.get("/v2/models/again/ready").status_code
    finally:
        path.unlink()
    assert 200 == host.get("/v2/models/again/ready").status_code


# -- limits -------------------------------------------------------------------


def test_request_beyond_the_queue_is_refused(host: Server) -> None:
    """Requests beyond the replicas and the queue are refused on both protocols."""
    text = "model 'many' has 2 requests waiting, which is its max_queue"

    def ask(number: int) -> Reply:
        infer = infer_grpc if number % 2 else infer_rest
        return infer(host, "many", order("wait 0.7"))

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(ask, range(16)))
    refused = [reply for reply in replies if reply.status not in (200, "OK")]
    assert 6 <= len(replies) - len(refused) < 16  # two for each replica, two that wait
    assert {text} == {reply.error for reply in refused}
    assert {503, "RESOURCE_EXHAUSTED"} == {reply.status for reply in refused}
    waits = {r.headers["retry-after"] for r in refused if r.status == 503}
    assert {"1"} == waits


@pytest.mark.slow
def test_request_fails_at_its_deadline(host: Server) -> None:
    """The client's deadline ends the wait, and the replica takes the next request."""
    reply = infer_grpc(host, "again", order("wait 3"), timeout_s=0.5)
    assert "DEADLINE_EXCEEDED" == reply.status
    assert "0" == told(host, "again", "wait 0")


# -- death --------------------------------------------------------------------


def test_death_of_a_replica_is_a_clear_refusal(host: Server) -> None:
    """The request that it had is a 503, UNAVAILABLE, and the next one succeeds."""
    text = "a replica of model 'many' died while it answered; ask again"
    for reply in (
        infer_rest(host, "many", order("die")),
        infer_grpc(host, "many", order("die")),
    ):
        assert reply.status in (503, "UNAVAILABLE")
        assert text == reply.error
        assert told(host, "many", "tell process")


@pytest.mark.slow
def test_idempotent_handler_is_called_again(host: Server) -> None:
    """If a handler is idempotent, no client notices the death of a replica."""
    assert "lives" == told(host, "again", "die at-the-first-time")


@pytest.mark.slow
def test_readiness_follows_the_replicas(host: Server) -> None:
    """A model is not ready with its only replica dead, and ready with the next one."""
    (process,) = processes(host, "again", 1)
    os.kill(process, signal.SIGKILL)
    wait_for(
        lambda: host.get("/v2/models/again/ready").status_code == 503, "unreadiness"
    )
    assert 503 == host.get("/v2/health/ready").status_code
    wait_for(lambda: host.get("/v2/models/again/ready").status_code == 200, "readiness")
    assert {process}.isdisjoint(processes(host, "again", 1))


@pytest.mark.slow
def test_dead_replica_costs_only_its_own_requests(host: Server) -> None:
    """Each request is answered or clearly refused, and few are refused."""
    before = processes(host, "many", 2)
    victim = before.pop()
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=host.url, timeout=60) as client:

        def ask(number: int) -> int:
            if number == 60:
                os.kill(victim, signal.SIGKILL)
            path = "/v2/models/many/infer"
            return client.post(path, json=order("wait 0.005")).status_code

        with ThreadPoolExecutor(4) as pool:
            statuses.update(pool.map(ask, range(200)))
    assert 200 == statuses[200] + statuses[503]
    assert statuses[503] <= 2  # max_ongoing_requests of the dead replica
    after = processes(host, "many", 2)
    assert victim not in after


# -- the model repository -----------------------------------------------------


@pytest.mark.slow
def test_reload_replaces_the_replicas_without_a_gap(
    host: Server, directory: Path
) -> None:
    """A model answers while it reloads, and its old replicas unload."""
    before = processes(host, "again", 1)
    answers: list[int | str] = []
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(host.post, "/v2/repository/models/again/load")
        while not reload.done():
            answers.append(infer_rest(host, "again", order("wait 0")).status)
        assert 200 == reload.result().status_code, reload.result().text
    assert {200} == set(answers)
    assert before.isdisjoint(processes(host, "again", 1))
    (process,) = before
    assert f"unload {process}" in lives(directory, "again")


@pytest.mark.slow
def test_unloaded_model_has_no_replicas(host: Server, directory: Path) -> None:
    """Its handler unloads and its process ends; loaded again it answers."""
    (process,) = processes(host, "again", 1)
    assert 200 == host.post("/v2/repository/models/again/unload").status_code
    assert f"unload {process}" in lives(directory, "again")
    wait_for(lambda: not os.path.exists(f"/proc/{process}"), "the end of the replica")
    assert 503 == infer_rest(host, "again", order("wait 0")).status
    assert 200 == host.get("/v2/health/ready").status_code
    assert 200 == host.post("/v2/repository/models/again/load").status_code
    assert {process}.isdisjoint(processes(host, "again", 1))


# -- the host's own Ray -------------------------------------------------------


def ray_directory(server: Server) -> str:
    found = re.search(r"starting Ray in (\S+)", server.log)
    assert found, server.log
    return found[1]


def test_ray_keeps_to_the_loopback_and_its_directory(host: Server) -> None:
    """Only one port of each replica is reachable from outside, with the token.

    That port is Ray Serve's own, for calls between replicas.
    """
    directory = ray_directory(host)
    assert 0o700 == os.stat(directory).st_mode & 0o777
    open_to_all = set()
    for process in map(psutil.Process, processes_of(directory)):
        for connection in process.connections("tcp"):
            address = connection.laddr.ip.removeprefix("::ffff:")
            outside = address not in ("127.0.0.1", "::1")
            if connection.status == psutil.CONN_LISTEN and outside:
                open_to_all.add(process.cmdline()[0].partition(":oip-")[0])
    assert open_to_all <= {"ray::ServeReplica"}


def test_sigterm_ends_the_host_and_its_ray(host: Server, directory: Path) -> None:
    """A replica answers its requests, its handler unloads, and nothing is left."""
    (process,) = processes(host, "again", 1)
    ray = ray_directory(host)
    assert processes_of(ray)
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(infer_rest, host, "again", order("hold rest"))
        also = pool.submit(infer_grpc, host, "many", order("hold grpc"))
        wait_for((directory / "rest").exists, "a call by REST")
        wait_for((directory / "grpc").exists, "a call by gRPC")
        host.process.send_signal(signal.SIGTERM)
        assert (200, "OK") == (held.result().status, also.result().status)
    assert 0 == host.wait()
    assert f"unload {process}" in lives(directory, "again")
    assert [] == processes_of(ray)
    assert not os.path.exists(ray)
