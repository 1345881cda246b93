"""Readiness: REST, gRPC, V1 and the health service always give the same answer."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oip_host.edge.grpc.messages import SERVICE
from support.control import agreed, change, health, states, wait_until
from support.process import Server, wait_for
from support.wire import ONE, infer_both, infer_rest, request, rpc

Start = Callable[..., Server]


@pytest.fixture
def start(serve: Callable[..., Server], tmp_path: Path) -> Start:
    """Start a server whose handlers look for their instructions in `tmp_path`."""

    def started(*arguments: str, drain_delay_s: float = 0.0) -> Server:
        environment = {"LIFE_DIR": str(tmp_path), "GATE_DIR": str(tmp_path)}
        return serve(
            "--model_control=explicit",
            *arguments,
            env=environment,
            drain_delay_s=drain_delay_s,
        )

    return started


def reasons(server: Server) -> list[str]:
    """Return the reasons for which the server is not ready."""
    answer = server.get("/v2/health/ready")
    assert 503 == answer.status_code
    document = answer.json()
    assert {"ready", "error"} == set(document)
    assert document["ready"] is False
    return str(document["error"]).split("; ")


def line(model: str, reason: str) -> str:
    return f"model '{model}' version '1' is not ready: {reason}"


def test_not_ready_before_the_models_are_loaded(start: Start, tmp_path: Path) -> None:
    """While a model loads, the server is live but not ready, and names that model.

    Each other model is ready as soon as it has loaded.
    """
    for name in ("slow", "slower"):
        (tmp_path / f"{name}.hold").touch()
    server = start(
        "--handlers=slow=fakes.lives:Fickle,slower=fakes.lives:Fickle,echo=fakes:Echo"
    )
    wait_until(server, True, "echo")
    assert rpc(server, "ServerLive").live is True
    assert 200 == server.get("/v2/health/live").status_code
    loading = [line(name, "it is still loading") for name in ("slow", "slower")]
    assert loading == reasons(server)
    assert [False] * 3 == [agreed(server, name) for name in ("", "slow", "slower")]
    (tmp_path / "slow.hold").unlink()
    wait_until(server, True, "slow")
    assert loading[1:] == reasons(server)
    assert not agreed(server)
    (tmp_path / "slower.hold").unlink()
    wait_until(server, True)
    assert [True] * 3 == [agreed(server, name) for name in ("slow", "slower", "echo")]


def test_failed_required_model_keeps_the_server_unready(
    start: Start, tmp_path: Path
) -> None:
    """The reason is listed until the model loads or is unloaded.

    A failed optional model is not listed.
    """
    for name in ("needed", "other", "spare"):
        (tmp_path / f"{name}.fail").touch()
    server = start(
        "--handlers=needed=fakes.lives:Fickle,other=fakes.lives:Fickle,spare=fakes.lives:Fickle?,"
        "echo=fakes:Echo"
    )
    failed = [
        line(name, "RuntimeError: no weights today") for name in ("needed", "other")
    ]
    wait_for(lambda: reasons(server) == failed, "the failed loads")
    assert not agreed(server)
    models = ("needed", "other", "spare", "echo")
    assert [False, False, False, True] == [agreed(server, name) for name in models]
    assert 200 == change(server, "rest", "unload", "other").status
    assert failed[:1] == reasons(server)
    assert not agreed(server)
    (tmp_path / "needed.fail").unlink()
    assert 200 == change(server, "rest", "load", "needed").status
    assert agreed(server)
    assert [True, False, False, True] == [agreed(server, name) for name in models]


def test_readiness_through_unload_and_reload(start: Start, tmp_path: Path) -> None:
    """An unloading model is not ready at once; the server is ready without it.

    A model that reloads stays ready, even if the reload fails.
    """
    server = start(
        "--handlers=busy=fakes.lives:Fickle,fresh=fakes.lives:Fickle"
    ).wait_until_ready()
    with ThreadPoolExecutor(3) as pool:
        sent = pool.submit(infer_rest, server, "busy", request(["g"], [1], "BYTES"))
        wait_for((tmp_path / "g.started").exists, "the call")
        assert agreed(server, "busy")  # a model that is busy is ready
        unload = pool.submit(change, server, "rest", "unload", "busy")
        wait_for(lambda: states(server, "busy") == ["UNLOADING"], "unloading")
        assert not agreed(server, "busy")
        assert agreed(server)
        (tmp_path / "g.open").touch()
        assert [200, 200] == [one.result().status for one in (sent, unload)]
        assert not agreed(server, "busy")
        assert agreed(server)

        (tmp_path / "fresh.loading").unlink()
        (tmp_path / "fresh.hold").touch()
        (tmp_path / "fresh.fail").touch()
        reload = pool.submit(change, server, "grpc", "load", "fresh")
        wait_for((tmp_path / "fresh.loading").exists, "the load")
        assert [True, True] == [agreed(server, name) for name in ("fresh", "")]
        (tmp_path / "fresh.hold").unlink()
        assert "UNAVAILABLE" == reload.result().status
        assert [True, True] == [agreed(server, name) for name in ("fresh", "")]
        (tmp_path / "fresh.fail").unlink()
        assert "OK" == change(server, "grpc", "load", "fresh").status
        assert [True, True] == [agreed(server, name) for name in ("fresh", "")]


def test_model_ready_counts_at_once(start: Start, tmp_path: Path) -> None:
    """A new answer of `model_ready` counts at once, for the model and the server."""
    server = start("--handlers=moody=fakes.lives:Moody").wait_until_ready()
    assert [True, True] == [agreed(server, name) for name in ("moody", "")]
    (tmp_path / "moody.ill").touch()
    assert [False, False] == [agreed(server, name) for name in ("moody", "")]
    assert [line("moody", "its handler says so")] == reasons(server)
    (tmp_path / "moody.ill").unlink()
    assert [True, True] == [agreed(server, name) for name in ("moody", "")]


def test_stopping_server_is_not_ready(start: Start) -> None:
    """After the signal the server is not ready, but its models are and answer."""
    server = start("--handlers=echo=fakes:Echo", drain_delay_s=3).wait_until_ready()
    assert agreed(server)
    assert "SERVING" == health(server, SERVICE)
    server.process.send_signal(signal.SIGTERM)
    wait_until(server, False)
    assert ["the server is shutting down"] == reasons(server)
    assert "NOT_SERVING" == health(server, SERVICE)
    assert agreed(server, "echo")
    assert [200, "OK"] == [one.status for one in infer_both(server, "echo", ONE)]
    assert 0 == server.wait()
