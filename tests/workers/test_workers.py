"""Several worker processes behind one address, under one supervisor."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from prometheus_client.parser import text_string_to_metric_families

from oip_host.config.settings import Settings
from oip_host.edge.grpc.messages import message
from oip_host.errors import ConfigurationError
from oip_host.workers import supervisor as workers
from oip_host.workers.identity import WorkerIdentity
from support.fakes.held import Gate
from support.load import CLOSED, Clients, Outcome, numbered, until
from support.process import (
    COMMAND,
    DEADLINE_S,
    Server,
    clean_environment,
    oip_host,
    run,
    wait_for,
)
from support.wire import ONE, infer_both, infer_grpc, infer_rest, rpc, rpc_error

Serve = Callable[..., Server]
CODE = 77
"""The exit code of `fakes.worker_dies`."""
READY = "/v2/health/ready"
INDEX = "/v2/repository/index"


def workers_of(server: Server) -> list[int]:
    """Return the ids of a supervisor's child processes."""
    return [child.pid for child in psutil.Process(server.process.pid).children()]


def pids(server: Server) -> dict[int, int]:
    """Return the id of the last worker that listens, by index."""
    line = r" (\d+) oip_host .*worker (\d+) of \d+ is listening"
    lines = re.findall(line, server.log)
    return {int(index): int(pid) for pid, index in lines}


def pid_of(document: dict[str, Any]) -> int:
    """Return the id in an answer of `fakes.workers`."""
    return int(document["outputs"][0]["data"][0])


def answering(server: Server, model: str = "pid") -> Counter[int]:
    """Count the processes that answer on new connections, by both protocols."""
    replies = [reply for _ in range(8) for reply in infer_both(server, model, ONE)]
    return Counter(pid_of(reply.document) for reply in replies)


def ended(processes: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in processes)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def pair(directory: Path) -> Iterator[Server]:
    """A host with two workers, whose models clients may change."""
    with Server(
        "--handlers=pid=fakes.workers:Pid,m=fakes.workers:Pid,"
        "environment=fakes.workers:Environment",
        "--workers=2",
        "--model_control=explicit",
        env={"WORKER_DIR": str(directory), "OIP_DRAIN_DELAY_S": "0"},
    ) as server:
        yield server.wait_until_ready()


# -- both serve ---------------------------------------------------------------


def test_every_worker_answers_both_protocols(pair: Server) -> None:
    """The handlers hold locks and threads; each process has its own."""
    for ask in (infer_rest, infer_grpc):
        found: set[int] = set()

        def both(ask: Any = ask, found: set[int] = found) -> bool:
            found.add(pid_of(ask(pair, "pid", ONE).document))
            return len(found) == 2

        wait_for(both, "answers of both")
        assert found == set(workers_of(pair))


def test_address_and_models_are_logged_once(pair: Server) -> None:
    """Each worker logs that it listens; the supervisor alone logs the address."""
    assert {0, 1} == set(pids(pair))
    assert 1 == len(re.findall(r"REST at .*, gRPC at .*, 2 workers", pair.log))
    assert 1 == pair.log.count("Try: curl")
    assert "Traceback" not in pair.log


def test_worker_environment_does_not_reach_handlers(pair: Server) -> None:
    """The variable that makes a process a worker is gone from its environment."""
    answer = infer_rest(pair, "environment", ONE).document
    assert {"names": "OIP_DRAIN_DELAY_S"} == answer["parameters"]
    assert "no such option" not in pair.log


def test_the_supervisor_stays_small(pair: Server) -> None:
    """The supervisor uses less than half of a worker's memory."""
    supervisor = psutil.Process(pair.process.pid)
    worker = min(child.memory_info().rss for child in supervisor.children())
    assert supervisor.memory_info().rss < worker / 2


def test_ready_means_every_worker(serve: Serve, tmp_path: Path) -> None:
    """Host, models and index are ready by both protocols only when all workers are.

    The reason names the worker. The same holds while a worker is replaced; the others
    answer meanwhile.
    """
    server = serve(
        "--handlers=m=fakes.workers:SecondWaits",
        "--workers=2",
        env={"WORKER_DIR": str(tmp_path)},
    )
    wait_for(lambda: "still loading" in server.get(READY).text, "a load")
    reason = "worker 1: model 'm' version '1' is not ready: it is still loading"
    expected = {"ready": False, "error": reason}
    wait_for(lambda: server.get(READY).json() == expected, "one that is ready")
    for _ in range(4):
        assert expected == server.get(READY).json()
        assert {"error": reason} == server.get("/v2/models/m/ready").json()
        assert {"error": reason} == server.get("/v1/models/m").json()
        (entry,) = server.post(INDEX).json()
        assert ("LOADING", "worker 1") == (entry["state"], entry["reason"])
        assert [] == server.post(INDEX, json={"ready": True}).json()
        assert not rpc(server, "ServerReady").ready
        wire = message("ModelReadyRequest")(name="m")
        assert not rpc(server, "ModelReady", wire).ready
    (tmp_path / "go").touch()
    server.wait_until_ready()
    assert rpc(server, "ServerReady").ready
    assert ["READY"] == [entry["state"] for entry in server.post(INDEX).json()]
    (tmp_path / "go").unlink()
    os.kill(pids(server)[1], signal.SIGKILL)
    wait_for(lambda: "does not answer" in server.get(READY).text, "the death")
    wait_for(lambda: server.get(READY).json() == expected, "a load")
    # a replacement accepts no connection before it can answer
    assert {200, "OK"} == {
        r.status for _ in range(6) for r in infer_both(server, "m", ONE)
    }
    (tmp_path / "go").touch()
    server.wait_until_ready()


@pytest.mark.slow
def test_a_worker_that_hangs_is_named(pair: Server) -> None:
    """Readiness and a model change name a worker that does not answer in a second."""
    wait_for(lambda: pair.get(READY).status_code == 200, "both workers")
    hangs = pids(pair)[1]

    def told(method: str, path: str) -> Any:
        try:  # the worker still gets connections
            answer = httpx.request(method, pair.url + path, timeout=1.9)
        except httpx.TimeoutException:
            return None
        return answer.status_code, answer.json()["error"]

    os.kill(hangs, signal.SIGSTOP)
    try:
        expected = 503, "worker 1 does not answer"
        assert expected == wait_for(lambda: told("GET", READY), "an answer")
        path = "/v2/repository/models/m/load"
        assert expected == wait_for(lambda: told("POST", path), "an answer")
    finally:
        os.kill(hangs, signal.SIGCONT)
    wait_for(lambda: pair.get(READY).status_code == 200, "both workers again")


# -- counts -------------------------------------------------------------------


def counts(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return all samples of a scrape that never decrease."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(server.get("/metrics").text)
        if family.type in ("counter", "histogram", "summary")
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def inferences(server: Server, model: str = "pid") -> int:
    """Return the number of inferences in the metrics."""
    total = 0.0
    for (name, labels), value in counts(server).items():
        if name == "oip_requests_total" and ("model_name", model) in labels:
            total += value
    return int(total)


def statistics(server: Server, model: str = "pid") -> list[int]:
    """Return the number of inferences in the statistics, by each protocol."""
    (rest,) = server.get(f"/v2/models/{model}/stats").json()["model_stats"]
    wire = message("ModelStatisticsRequest")(name=model)
    (grpcs,) = rpc(server, "ModelStatistics", wire).model_stats
    (every,) = (
        entry["inference_count"]
        for entry in server.get("/v2/models/stats").json()["model_stats"]
        if entry["name"] == model
    )
    assert rest["inference_stats"]["success"]["count"] == rest["inference_count"]
    return [rest["inference_count"], grpcs.inference_count, every]


def test_metrics_and_statistics_are_sums(pair: Server) -> None:
    """Every worker reports the same number: that of the answered requests."""
    before = inferences(pair)
    assert {before} == {*statistics(pair)}
    answered = answering(pair)
    wait_for(lambda: answered.update(answering(pair)) or len(answered) == 2, "both")
    expected = before + sum(answered.values())
    for _ in range(6):
        assert expected == inferences(pair)
        assert {expected} == {*statistics(pair)}
    text = pair.get("/metrics").text
    assert 1 == text.count("\npython_info{")
    assert "\nprocess_resident_memory_bytes " in text
    assert 'oip_model_ready{model_name="pid",model_version="1"} 1.0' in text
    opened = httpx.get(
        f"{pair.url}/metrics", headers={"accept": "application/openmetrics-text"}
    )
    assert opened.text.endswith("# EOF\n")
    assert opened.headers["content-type"].startswith("application/openmetrics-text")


def test_counts_outlive_a_worker(pair: Server) -> None:
    """No count decreases when a worker dies or while another one replaces it."""
    assert answering(pair)
    before, totals = counts(pair), statistics(pair)
    dies = pids(pair)[0]
    os.kill(dies, signal.SIGKILL)
    # until then it still gets connections, which end without an answer
    line = rf"worker 0 \(pid {dies}\) was killed by SIGKILL, starting another one "
    wait_for(lambda: re.search(line, pair.log), "its end")

    def replaced() -> bool:
        nonlocal before
        now = counts(pair)
        assert [] == [key for key, value in before.items() if now[key] < value]
        before = now
        assert all(
            new >= old for new, old in zip(statistics(pair), totals, strict=True)
        )
        return pids(pair)[0] != dies and pair.get(READY).status_code == 200

    wait_for(replaced, "another worker")
    assert inferences(pair) == statistics(pair)[0] >= totals[0]


# -- death --------------------------------------------------------------------


class Told(NamedTuple):
    """The answers and failures of a client that sends one request after another."""

    answered: list[int]
    """By which process, each time."""
    failed: list[int]
    """Which process had answered before, each time."""


async def ask_rest(server: Server, stop: asyncio.Event) -> Told:
    """Send requests by REST on one connection until `stop` is set."""
    told = Told([], [])
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        while not stop.is_set():
            try:
                answer = await client.post("/v2/models/pid/infer", json=ONE)
            except httpx.TransportError:
                told.failed.append(told.answered[-1])
            else:
                assert 200 == answer.status_code, answer.text
                told.answered.append(pid_of(answer.json()))
    return told


async def ask_grpc(server: Server, stop: asyncio.Event) -> Told:
    """Send requests by gRPC on one connection until `stop` is set."""
    told = Told([], [])
    wire = message("ModelInferRequest")(model_name="pid")
    x = wire.inputs.add(name="x", datatype="FP32", shape=[1])
    x.contents.fp32_contents.append(1.0)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.grpc_address, options) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda sent: sent.SerializeToString(),
            response_deserializer=message("ModelInferResponse").FromString,
        )
        while not stop.is_set():
            try:
                answer = await infer(wire, timeout=30)
            except grpc.aio.AioRpcError as error:
                told.failed.append(told.answered[-1])
                assert grpc.StatusCode.UNAVAILABLE == error.code()  # noqa: PT017
            else:
                told.answered.append(answer.outputs[0].contents.int64_contents[0])
    return told


async def test_dying_worker_fails_only_its_own_requests(pair: Server) -> None:
    """Under load a client fails at most once, and only at the worker that died.

    All other requests are answered, and later the replacement answers some too.
    """
    await until(lambda: pair.get(READY).status_code == 200, "both workers")
    stop = asyncio.Event()
    before = inferences(pair)
    asking = [
        asyncio.create_task(ask(pair, stop))
        for ask in (ask_rest, ask_grpc)
        for _ in range(6)
    ]
    await until(lambda: inferences(pair) > before + 100, "load")
    dies = pids(pair)[1]
    os.kill(dies, signal.SIGKILL)
    await until(lambda: pids(pair)[1] != dies, "another worker")
    stop.set()
    told = await asyncio.gather(*asking)
    assert {dies} >= {pid for each in told for pid in each.failed}
    assert all(len(each.failed) <= 1 for each in told)
    assert all(each.answered for each in told)
    await until(lambda: pair.get(READY).status_code == 200, "both workers again")
    wait_for(lambda: answering(pair)[pids(pair)[1]], "its answers")


@pytest.mark.slow
def test_worker_that_cannot_start_is_started_again(
    serve: Serve, tmp_path: Path
) -> None:
    """The waits grow, while the other worker answers and the host is not ready."""
    server = serve(
        "--handlers=m=fakes.worker_dies:Echo",
        "--workers=2",
        env={"WORKER_DIR": str(tmp_path)},
    )
    ends = rf"worker 1 \(pid \d+\) exited with code {CODE}, .* another one in ([\d.]+)"
    wait_for(lambda: len(re.findall(ends, server.log)) == 2, "two deaths")
    assert ["0.5", "1"] == re.findall(ends, server.log)
    assert 3 == len((tmp_path / "starts").read_text().split())
    assert "worker 1 does not answer" == server.get(READY).json()["error"]
    assert [200, "OK"] == [reply.status for reply in infer_both(server, "m", ONE)]
    (tmp_path / "live").touch()
    server.wait_until_ready()
    assert 4 == len((tmp_path / "starts").read_text().split())


@pytest.mark.parametrize(
    ("deaths", "expected"),
    [(0, 0), (1, 0.5), (2, 1), (3, 2), (6, 16), (7, 30), (2000, 30)],
)
def test_waits_between_starts_grow_to_30_s(deaths: int, expected: float) -> None:
    """The wait before a start grows with the number of early deaths."""
    assert expected == workers._compute_wait_s(deaths)


# -- faults of the configuration ----------------------------------------------


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["--max_threads=0"], ["--max_threads: found '0'"]),
        (
            ["--handlers=nowhere", "--nonsense=1"],
            ["unknown argument '--nonsense=1'", "OIP_HANDLERS: "],
        ),
    ],
    ids=["known to the supervisor", "known to a worker"],
)
def test_wrong_configuration_is_reported_once(
    wrong: list[str], expected: list[str]
) -> None:
    """One process reports the faults, and all end with exit code 2."""
    done = oip_host(
        "serve", "--handlers=fakes:Echo", "--http_port=0", "--grpc_port=0",
        "--workers=2", "--bind=127.0.0.1", *wrong,
    )  # fmt: skip
    assert done.returncode == 2
    lines = errors(done.stderr)
    assert len(expected) == len(lines)
    assert [] == [
        (line, text)
        for line, text in zip(lines, expected, strict=True)
        if not line.startswith(f"error: {text}")
    ]
    assert "Traceback" not in done.stderr
    assert "REST at" not in done.stderr + done.stdout


def taken(stack: ExitStack, shared: bool) -> int:
    """Return a port with a listener, which may allow others to share the port."""
    listener = stack.enter_context(socket.socket())
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return int(listener.getsockname()[1])


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_ports_in_use_are_faults(shared: bool) -> None:
    """Both ports are reported with exit code 2, even if their owner shares them."""
    with ExitStack() as stack:
        ports = {name: taken(stack, shared) for name in ("http", "grpc")}
        given = [f"--{name}_port={port}" for name, port in ports.items()]
        done = oip_host(
            "serve", "--handlers=fakes:Echo", "--workers=2", "--bind=127.0.0.1", *given
        )
    assert done.returncode == 2
    lines = errors(done.stderr)
    assert 2 == len(lines)
    for line, (name, port) in zip(lines, ports.items(), strict=True):
        assert f"kserve_{name}_port {port}: " in line
        assert "address already in use" in line.lower()


@pytest.mark.parametrize("count", [1, 2])
def test_second_host_cannot_use_the_ports(pair: Server, count: int) -> None:
    """A second host fails at the ports, with one process or with workers."""
    done = oip_host(
        "serve", "--handlers=fakes:Echo", "--bind=127.0.0.1", f"--workers={count}",
        f"--http_port={pair.http_port}", f"--grpc_port={pair.grpc_port}",
    )  # fmt: skip
    assert done.returncode == 2
    assert 2 == len(errors(done.stderr))


def test_ports_are_reserved_before_workers_start() -> None:
    """The supervisor holds the ports before it has a worker."""
    settings = Settings(kserve_http_port=0, kserve_grpc_port=0, oip_bind="127.0.0.1")
    with ExitStack() as first, ExitStack() as second:
        ports = workers._reserve_ports(settings, first)
        same = settings.model_copy(update=ports)
        with pytest.raises(ConfigurationError) as caught:
            workers._reserve_ports(same, second)
        assert 2 == len(caught.value.faults)
    with ExitStack() as third:
        assert ports == workers._reserve_ports(same, third)


@pytest.mark.parametrize("beyond", [0, 1, 40])
def test_shared_directory_has_a_short_path(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, beyond: int
) -> None:
    """The directory's path stays within the length limit of a Unix socket's name."""
    length = workers._PATH_BYTES + beyond - len(str(temporary)) - 1
    deep = temporary / ("x" * length)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with workers._make_directory() as directory, ExitStack() as stack:
        assert (beyond == 0) == directory.startswith(str(deep))
        assert 0o700 == os.stat(directory).st_mode & 0o777
        own = stack.enter_context(socket.socket(socket.AF_UNIX))
        own.bind(f"{directory}/worker-999.sock")
    assert not os.path.exists(directory)
    deep.rmdir()


def test_missing_temporary_directory_is_a_fault(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported like any other fault of the configuration."""
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "nowhere"))
    with pytest.raises(ConfigurationError) as caught, workers._make_directory():
        pass
    assert caught.value.faults[0].startswith("kserve_workers: could not make a ")


def test_a_worker_without_its_supervisor_does_not_start() -> None:
    """Without a supervisor nothing could stop the worker."""
    identity = WorkerIdentity(0, 2, "/nowhere", os.getpid(), 0, 0, False, -1)
    done = run(
        "bash", "-c", f"{COMMAND} serve; exit $?",  # the shell is its parent
        env={"OIP_WORKER": identity.to_environment()["OIP_WORKER"]},
    )  # fmt: skip
    assert done.returncode == 1
    assert "" == done.stdout + done.stderr


# -- the repository -----------------------------------------------------------


def change(server: Server, what: str, model: str, protocol: str) -> None:
    """Load or unload a model, and expect success."""
    if protocol == "rest":
        answer = server.post(f"/v2/repository/models/{model}/{what}")
        assert 200 == answer.status_code, answer.text
    else:
        name = f"RepositoryModel{what.capitalize()}"
        rpc(server, name, message(f"{name}Request")(model_name=model))


def entry(server: Server, model: str) -> tuple[str, str]:
    """Return state and reason of a model in the index."""
    entries = {one["name"]: one for one in server.post(INDEX).json()}
    return entries[model]["state"], entries[model]["reason"]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_changes_of_a_model_reach_every_worker(pair: Server, protocol: str) -> None:
    """A change through any worker changes the answers of all workers."""
    wait_for(lambda: pair.get(READY).status_code == 200, "both workers")
    for _ in range(2):
        change(pair, "unload", "m", protocol)
        assert {503} == {infer_rest(pair, "m", ONE).status for _ in range(6)}
        assert ("UNAVAILABLE", "unloaded") == entry(pair, "m")
        assert 200 == pair.get(READY).status_code
        change(pair, "load", "m", protocol)
        assert {200} == {infer_rest(pair, "m", ONE).status for _ in range(6)}
        assert ("READY", "") == entry(pair, "m")
        change(pair, "load", "m", protocol)
        assert {200} == {infer_rest(pair, "m", ONE).status for _ in range(6)}


@pytest.mark.slow
def test_replacement_keeps_unloaded_models_unloaded(pair: Server) -> None:
    """A worker that starts later follows the earlier changes of clients."""
    wait_for(lambda: pair.get(READY).status_code == 200, "both workers")
    change(pair, "unload", "m", "rest")
    dies = pids(pair)[1]
    os.kill(dies, signal.SIGKILL)
    wait_for(lambda: pids(pair)[1] != dies, "another worker")
    wait_for(lambda: pair.get(READY).status_code == 200, "both workers again")
    assert ("UNAVAILABLE", "unloaded") == entry(pair, "m")
    change(pair, "load", "m", "rest")
    assert ("READY", "") == entry(pair, "m")
    assert {200} == {infer_rest(pair, "m", ONE).status for _ in range(6)}


def test_worker_that_fails_to_load_is_named(pair: Server, directory: Path) -> None:
    """Both protocols, readiness and the index name the worker and its reason."""
    wait_for(lambda: pair.get(READY).status_code == 200, "both workers")
    broken = directory / "m.broken"
    reason = "model 'm' version '1' is not ready: OSError: no weights in this worker"
    change(pair, "unload", "m", "rest")
    broken.write_text(str(pids(pair)[1]))
    try:
        for _ in range(3):
            answer = pair.post("/v2/repository/models/m/load")
            expected = {"error": f"worker 1: {reason}"}
            assert (503, expected) == (answer.status_code, answer.json())
            name = "RepositoryModelLoad"
            refused = rpc_error(pair, name, message(f"{name}Request")(model_name="m"))
            assert ("UNAVAILABLE", f"worker 1: {reason}") == refused
            assert f"worker 1: {reason}" == pair.get(READY).json()["error"]
            unready = "UNAVAILABLE", "worker 1: OSError: no weights in this worker"
            assert unready == entry(pair, "m")
        text = pair.get("/metrics").text
        assert 'oip_model_ready{model_name="m",model_version="1"} 0.0' in text
    finally:
        broken.unlink()
        change(pair, "load", "m", "rest")
    assert 200 == pair.get(READY).status_code


async def test_concurrent_changes_have_one_order(pair: Server) -> None:
    """After many concurrent changes all workers agree on the state."""
    wait_for(lambda: pair.get(READY).status_code == 200, "both workers")
    async with httpx.AsyncClient(base_url=pair.url, timeout=30) as client:
        for _ in range(3):
            asked = [
                client.post(f"/v2/repository/models/m/{what}")
                for what in ("load", "unload") * 6
            ]
            answers = await asyncio.gather(*asked)
            assert {200} == {answer.status_code for answer in answers}
            assert entry(pair, "m") in (("READY", ""), ("UNAVAILABLE", "unloaded"))
    change(pair, "load", "m", "rest")


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("nobody/load", {}, 404, "model 'nobody' is not on this server"),
        ("m/load", {"parameters": {"a": 1}}, 400, "parameters: found 'a'"),
    ],
    ids=["unknown", "parameters"],
)
def test_refusals_are_those_of_one_process(
    pair: Server, path: str, body: Any, status: int, error: str
) -> None:
    """Refused changes name no worker and change no state."""
    answer = pair.post(f"/v2/repository/models/{path}", json=body)
    assert status == answer.status_code
    assert answer.json()["error"].startswith(error)
    assert ("READY", "") == entry(pair, "m")


# -- the end ------------------------------------------------------------------


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary directory with a short path; the test must leave it empty."""
    directory = Path(tempfile.mkdtemp(prefix="workers-"))
    yield directory
    directory.rmdir()


def modes(directory: Path) -> list[int]:
    """Return the permissions of a directory's entries."""
    return [path.stat().st_mode & 0o777 for path in directory.iterdir()]


async def ask_until_refused(server: Server, protocol: str, name: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    async with Clients(server) as clients:
        while not outcomes or outcomes[-1].answered:
            sent = clients.send(protocol, "busy", f"{name}-{len(outcomes)}")
            outcomes += await asyncio.gather(*sent)
    return outcomes


async def test_a_stop_under_load_loses_nothing(
    serve: Serve, tmp_path: Path, temporary: Path
) -> None:
    """Every accepted request is answered; then no process or file is left."""
    server = serve(
        "--handlers=busy=fakes.held:Held,slow=fakes.held:Held",
        "--workers=2",
        drain_delay_s=1.0,
        env={"LOAD_DIR": str(tmp_path), "TMPDIR": str(temporary)},
    ).wait_until_ready()
    assert [0o700] == modes(temporary)
    processes = workers_of(server)
    busy, slow = Gate(tmp_path, "busy"), Gate(tmp_path, "slow")
    slow.shut()
    async with Several(server, 6) as clients:
        held = [
            request
            for n, each in enumerate(clients)
            for protocol in ("rest", "grpc")
            for request in each.send(protocol, "slow", *numbered(f"{protocol}{n}", 2))
        ]
        asking = [
            asyncio.create_task(ask_until_refused(server, protocol, f"{protocol}-{n}"))
            for protocol in ("rest", "grpc")
            for n in range(3)
        ]
        await until(lambda: slow.ran and len(busy.ran) > 60, "load")
        server.process.send_signal(signal.SIGTERM)
        outcomes = [o for each in await asyncio.gather(*asking) for o in each]
        assert [] == [request for request in held if request.done()]
        slow.open()
        assert all(outcome.answered for outcome in await asyncio.gather(*held))
    assert server.wait() == 0
    assert sorted(o.name for o in outcomes if o.answered) == sorted(busy.ran)
    assert {CLOSED, "UNAVAILABLE"} == {o.status for o in outcomes if not o.answered}
    assert len(held) == len(slow.ran)
    assert ended(processes)
    assert [] == modes(temporary)
    assert "Traceback" not in server.log
    assert "killed" not in server.log


class Several:
    """Several clients of one server."""

    def __init__(self, server: Server, count: int) -> None:
        self._clients = [Clients(server) for _ in range(count)]

    async def __aenter__(self) -> list[Clients]:
        return self._clients

    async def __aexit__(self, *_: object) -> None:
        for clients in self._clients:
            await clients.__aexit__(None, None, None)


def test_the_workers_end_with_their_supervisor(
    serve: Serve, tmp_path: Path, temporary: Path
) -> None:
    """Workers end after their supervisor is killed, and leave no directory behind."""
    server = serve(
        "--handlers=pid=fakes.workers:Pid",
        "--workers=2",
        env={"WORKER_DIR": str(tmp_path), "TMPDIR": str(temporary)},
    ).wait_until_ready()
    processes = workers_of(server)
    server.process.kill()
    wait_for(lambda: ended(processes), "the end of the workers")
    assert [] == modes(temporary)


@pytest.mark.slow
def test_workers_follow_the_first_and_second_signal(
    serve: Serve, tmp_path: Path
) -> None:
    """The first signal waits for requests in flight, and the second does not.

    Neither waits for the drain delay.
    """
    server = serve(
        "--handlers=slow=fakes.held:Held",
        "--workers=2",
        drain_delay_s=300,
        env={"LOAD_DIR": str(tmp_path)},
    ).wait_until_ready()
    Gate(tmp_path, "slow").shut()
    processes = workers_of(server)

    async def interrupt() -> Outcome:
        async with Clients(server) as clients:
            (held,) = clients.send("rest", "slow", "one")
            await until(lambda: Gate(tmp_path, "slow").ran, "the call")
            server.process.send_signal(signal.SIGINT)
            await until(lambda: "received SIGINT, draining" in server.log, "the signal")
            await until(lambda: sum(map(psutil.pid_exists, processes)) == 1, "an end")
            assert not held.done()
            server.process.send_signal(signal.SIGINT)
            return await held

    assert 503 == asyncio.run(interrupt()).status
    assert server.wait() == 0
    assert ended(processes)
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_a_signal_while_workers_start_ends_all(serve: Serve, tmp_path: Path) -> None:
    """A signal ends all, also while a dead worker waits for its next start."""
    server = serve(
        "--handlers=m=fakes.worker_dies:Echo",
        "--workers=3",
        env={"WORKER_DIR": str(tmp_path)},
    )
    wait_for(lambda: len(re.findall("starting another one", server.log)) > 2, "deaths")
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_a_signal_before_any_worker_listens_ends_all() -> None:
    """The supervisor can be stopped as soon as it has a process."""
    with psutil.Popen(
        [COMMAND, "serve", "--handlers=fakes:Echo", "--workers=2",
         "--http_port=0", "--grpc_port=0", "--bind=127.0.0.1"],
        env=clean_environment(),
    ) as process:  # fmt: skip
        wait_for(process.children, "the first worker")
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(timeout=DEADLINE_S)


# -- programs and addresses ---------------------------------------------------

PROGRAM = """
from oip_host import AissembleOIPKServe
from fakes.workers import Pid

model = AissembleOIPKServe("pid", Pid())
model.load()
model.start_server()
print("the program goes on")
"""


def test_a_program_serves_with_workers(serve: Serve, tmp_path: Path) -> None:
    """`start_server` starts workers of a user's program with its own arguments."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    server = serve(
        "--workers=2",
        program=[sys.executable, str(path)],
        env={"WORKER_DIR": str(tmp_path)},
    ).wait_until_ready()
    found = answering(server)
    wait_for(lambda: found.update(answering(server)) or len(found) == 2, "both")
    assert {*workers_of(server)} == {*found}
    assert server.stop() == 0
    assert 3 == server.log.count("the program goes on")


def test_a_program_with_a_wrong_configuration_ends(tmp_path: Path) -> None:
    """The program ends with exit code 2 and reports each fault once."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    with ExitStack() as stack:
        port = taken(stack, True)
        done = run(
            sys.executable, str(path), "--workers=2", f"--http_port={port}",
            "--grpc_port=0", "--bind=127.0.0.1", env={"WORKER_DIR": str(tmp_path)},
        )  # fmt: skip
    assert done.returncode == 2
    assert 1 == done.stderr.count(f"kserve_http_port {port}: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_workers_listen_at_ipv6_too(serve: Serve, tmp_path: Path) -> None:
    """`::` listens on both address families, as with one process."""
    server = serve(
        "--handlers=pid=fakes.workers:Pid",
        "--workers=2",
        "--bind=::",
        env={"WORKER_DIR": str(tmp_path)},
    ).wait_until_ready()
    for host in ("127.0.0.1", "[::1]"):
        url = f"http://{host}:{server.http_port}{READY}"
        assert 200 == httpx.get(url).status_code
        with grpc.insecure_channel(f"{host}:{server.grpc_port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=DEADLINE_S)
