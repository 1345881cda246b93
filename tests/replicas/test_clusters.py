"""Ray clusters: a host's own, joined ones, two nodes, scaling and failures.

Each test here takes Ray ten seconds or more, so `make test-all` runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
import venv
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from support.clusters import Ray, TwoNodes, processes_of
from support.process import Server, wait_for
from support.wire import infer_rest, request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Serve = Callable[..., Server]
STARTS_S = 180.0
TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that handlers and tests share."""
    return tmp_path_factory.mktemp("clusters")


@pytest.fixture(scope="module")
def ray(directory: Path) -> Iterator[Ray]:
    """A cluster that hosts can join."""
    with Ray(variables={"REPLICA_DIR": str(directory)}) as cluster:
        yield cluster


def joined(serve: Serve, ray: Ray | TwoNodes, *arguments: str, **models: Any) -> Server:
    """Return a host in the cluster with models of `fakes.replicas:Obeys`."""
    handlers = ",".join(f"{name}=fakes.replicas:Obeys" for name in models)
    server = serve(
        f"--handlers={handlers}",
        f"--ray_address={ray.address}",
        *arguments,
        env={**ray.variables, "OIP_MODELS": json.dumps(models)},
    )
    wait_for(lambda: settled(server), "the end of all loads", STARTS_S)
    return server


def settled(server: Server) -> bool:
    index = server.post("/v2/repository/index").json()
    return all(model["state"] != "LOADING" for model in index)


def told(server: Server, model: str, text: str) -> str:
    """Send an order to the handler and return its outcome."""
    answer = infer_rest(server, model, request([text], [1], "BYTES"))
    assert 200 == answer.status, answer.document
    return str(answer.document["outputs"][0]["data"][0])


# -- joining ------------------------------------------------------------------


def test_host_joins_a_cluster_with_a_token_file(
    serve: Serve, ray: Ray, tmp_path: Path
) -> None:
    """Ray takes the token from the file only, and the log does not show it."""
    path = tmp_path / "token"
    path.write_text(ray.token)
    variables = {k: v for k, v in ray.variables.items() if "AUTH" not in k}
    server = serve(
        "--handlers=m=fakes.replicas:Obeys",
        "--models.m.replicas=1",
        f"--ray_address={ray.address}",
        f"--ray_token_file={path}",
        env={**variables, "HOME": str(tmp_path)},
    )
    wait_for(lambda: settled(server), "the end of all loads", STARTS_S)
    assert told(server, "m", "tell process")
    assert 0 == server.stop()
    assert ray.token not in server.log


def test_two_hosts_share_a_cluster(serve: Serve, ray: Ray) -> None:
    """Two hosts have separate models of one name; one host's end leaves the other's."""
    first = joined(serve, ray, m={"replicas": 1})
    second = joined(serve, ray, m={"replicas": 1})
    processes = {told(server, "m", "tell process") for server in (first, second)}
    assert 2 == len(processes)
    assert 0 == first.stop()
    assert told(second, "m", "tell process") in processes


def test_next_host_deletes_replicas_of_a_killed_host(serve: Serve, ray: Ray) -> None:
    """Replicas of a killed host end when another host joins."""
    killed = joined(serve, ray, m={"replicas": 1})
    process = told(killed, "m", "tell process")
    killed.process.kill()
    killed.wait()
    server = joined(serve, ray, other={"replicas": 1})
    wait_for(lambda: not os.path.exists(f"/proc/{process}"), "the end of the replica")
    assert "deleting replicas left behind by a dead host" in server.log
    assert told(server, "other", "tell process")


def test_resources_that_the_own_ray_lacks_are_refused(serve: Serve) -> None:
    """A replica that can never start is an error, not an endless wait."""
    server = serve(
        "--handlers=m=fakes:Echo?",
        "--models.m.replicas=1",
        "--models.m.resources.tpu=2",
    )
    wait_for(lambda: settled(server), "the end of all loads", STARTS_S)
    assert (
        "a replica needs 2 of 'tpu', and the host's own Ray has 0; join a cluster with "
        "ray_address"
    ) in infer_rest(server, "m", request([1.0], [1])).error


# -- environments -------------------------------------------------------------

APART = """
import os
from support.fakes.replicas import Obeys

class Apart(Obeys):
    pass
"""


def test_handler_runs_in_a_separate_environment(
    serve: Serve, ray: Ray, tmp_path: Path
) -> None:
    """With `py_executable` the host does not import the handler itself."""
    venv.create(tmp_path / "other", symlinks=True)
    library = Path(
        sysconfig.get_path(
            "purelib", vars={"base": str(tmp_path / "other")}, scheme="venv"
        )
        if sys.version_info >= (3, 11)
        else next((tmp_path / "other" / "lib").iterdir()) / "site-packages"
    )
    (library / "shared.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n{TESTS}\n"
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    (library / "only_there.py").write_text(APART)
    python = tmp_path / "other" / "bin" / "python"
    server = serve(
        "--handlers=m=only_there:Apart",
        "--models.m.replicas=1",
        f"--models.m.py_executable={python}",
        '--models.m.runtime_env={"env_vars": {"OF_ITS_OWN": "1"}}',
        f"--ray_address={ray.address}",
        env=ray.variables,
    )
    wait_for(lambda: settled(server), "the end of all loads", STARTS_S)
    assert str(python) == told(server, "m", "tell python")


def test_missing_handler_is_the_models_reason(serve: Serve, ray: Ray) -> None:
    """A failed import in a replica reads like a failed import in the host."""
    server = serve(
        "--handlers=m=nowhere:Handler?",
        "--models.m.replicas=1",
        f"--models.m.py_executable={sys.executable}",
        f"--ray_address={ray.address}",
        env=ray.variables,
    )
    wait_for(lambda: settled(server), "the end of all loads", STARTS_S)
    text = infer_rest(server, "m", request([1.0], [1])).error
    assert "No module named 'nowhere'" in text
    assert "Traceback" not in text


# -- scale --------------------------------------------------------------------


def replicas(process_directory: Path, model: str) -> set[int]:
    """Return the live processes of a model that have loaded it."""
    path = process_directory / f"{model}.life"
    lines = path.read_text().split("\n") if path.exists() else []
    loaded = {int(line.split()[1]) for line in lines if line.startswith("load ")}
    return {process for process in loaded if os.path.exists(f"/proc/{process}")}


def test_replicas_follow_the_load(serve: Serve, ray: Ray, directory: Path) -> None:
    """Under load replicas are added up to the maximum; afterwards one is left."""
    scale = {"max": 3, "target": 1, "upscale_delay_s": 1, "downscale_delay_s": 1}
    server = joined(serve, ray, "--drain_delay_s=0", scaled={"autoscaling": scale})
    assert 1 == len(replicas(directory, "scaled"))
    done = threading.Event()
    statuses: Counter[int] = Counter()

    def ask(_: int) -> None:
        body = request(["wait 0.2"], [1], "BYTES")
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not done.is_set():
                answer = client.post("/v2/models/scaled/infer", json=body)
                statuses[answer.status_code] += 1

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(ask, number) for number in range(6)]
        try:
            wait_for(
                lambda: len(replicas(directory, "scaled")) == 3, "three replicas", 120
            )
        finally:
            done.set()
        for each in running:
            each.result()
    assert {200} == set(statuses)
    wait_for(lambda: len(replicas(directory, "scaled")) == 1, "one replica", 180)
    assert told(server, "scaled", "tell process")


def test_dead_node_costs_only_its_own_requests(
    serve: Serve, directory: Path, tmp_path: Path
) -> None:
    """If one of two nodes is killed, the replica of the other still answers."""
    with TwoNodes({"REPLICA_DIR": str(directory)}) as cluster:
        server = joined(
            serve, cluster, spread={"replicas": 2, "max_ongoing_requests": 2}
        )
        parents = {psutil.Process(p).ppid() for p in replicas(directory, "spread")}
        assert 2 == len(parents)
        assert cluster.second in parents
        statuses: Counter[int | str] = Counter()

        def ask(number: int) -> int | str:
            if number == 60:
                cluster.kill_the_second()
            return infer_rest(
                server, "spread", request(["wait 0.005"], [1], "BYTES")
            ).status

        with ThreadPoolExecutor(4) as pool:
            statuses.update(pool.map(ask, range(300)))
        assert 300 == statuses[200] + statuses[503]
        assert statuses[503] <= 2
        assert 200 == server.get("/v2/models/spread/ready").status_code
        assert 0 == server.stop()


# -- the end of a host --------------------------------------------------------


def test_sigkill_of_a_host_ends_its_ray(serve: Serve) -> None:
    """After SIGKILL of the host no process and no file of its Ray is left."""
    server = serve("--handlers=m=fakes:Echo", "--models.m.replicas=1")
    wait_for(lambda: settled(server), "the end of all loads", STARTS_S)
    found = re.search(r"starting Ray in (\S+)", server.log)
    assert found
    assert processes_of(found[1])
    server.process.kill()
    server.wait()
    wait_for(lambda: not processes_of(found[1]), "the end of Ray")
    wait_for(lambda: not os.path.exists(found[1]), "the end of its directory")


def test_sigterm_during_rays_start_stops_the_host(serve: Serve) -> None:
    """A host that is stopped while it starts Ray stops its Ray too."""
    server = serve("--handlers=m=fakes:Echo", "--models.m.replicas=1")
    wait_for(lambda: "starting Ray in" in server.log, "the start of Ray")
    found = re.search(r"starting Ray in (\S+)", server.log)
    assert found
    assert 0 == server.stop()
    wait_for(lambda: not processes_of(found[1]), "the end of Ray")
    wait_for(lambda: not os.path.exists(found[1]), "the end of its directory")


def test_failed_start_of_ray_is_retried(serve: Serve) -> None:
    """One failed start of Ray, as for a port in use, does not fail the model."""
    server = serve("--handlers=m=fakes:Echo", "--models.m.replicas=1")

    def heads() -> list[psutil.Process]:
        children = psutil.Process(server.process.pid).children()
        return [child for child in children if "ray_head" in str(child.cmdline())]

    wait_for(heads, "the start of Ray")[0].kill()
    wait_for(lambda: settled(server), "the end of all loads", STARTS_S)
    killed, started = re.findall(r"starting Ray in (\S+)", server.log)
    assert (False, True) == (os.path.exists(killed), os.path.exists(started))
    assert [1.0] == infer_rest(server, "m", request([1.0], [1])).document["outputs"][0][
        "data"
    ]
    assert 0 == server.stop()


def test_host_survives_a_broken_ray(serve: Serve) -> None:
    """With Ray's control process dead the host runs on, says so, and stops cleanly."""
    server = serve(
        "--handlers=m=fakes:Echo,local=fakes:Echo",
        "--models.m.replicas=1",
        "--grace_period_s=2",
    )
    wait_for(lambda: settled(server), "the end of all loads", STARTS_S)
    found = re.search(r"starting Ray in (\S+)", server.log)
    assert found
    for process in map(psutil.Process, processes_of(found[1])):
        if "gcs_server" in process.name():
            process.kill()
    wait_for(lambda: server.get("/v2/health/ready").status_code == 503, "unreadiness")
    reason = "model 'm' version '1' is not ready: Ray does not report its replicas"
    assert reason == server.get("/v2/health/ready").json()["error"]
    assert 200 == infer_rest(server, "local", request([1.0], [1])).status
    assert 0 == server.stop()
    wait_for(lambda: not processes_of(found[1]), "the end of Ray")


# -- conformance --------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        "rest/test_requests",
        "test_datatypes",
        "rest/test_binary",
        "test_parity",
        "test_codecs",
        "rest/test_openapi",
    ],
)
def test_replicas_keep_the_protocol(ray: Ray, module: str) -> None:
    """The protocol tests of inference hold with every model in a replica."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "--timeout=300"),
            str(TESTS / "edge" / f"{module}.py"),
        ],
        env={**os.environ, **ray.variables, "TEST_REPLICAS_AT": ray.address},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert 0 == done.returncode, done.stdout[-3000:]
    assert re.search(r"\d+ passed", done.stdout)
