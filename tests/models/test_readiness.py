"""Readiness, honestly: one answer of REST, gRPC, V1 and the health service, always."""

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
    """Start a server whose handlers look for wishes in `tmp_path`."""

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
    """Why the server is not ready."""
    answer = server.get("/v2/health/ready")
    assert 503 == answer.status_code
    document = answer.json()
    assert {"ready", "error"} == set(document)
    assert document["ready"] is False
    return str(document["error"]).split("; ")


def line(model: str, reason: str) -> str:
    return f"model '{model}' version '1' is not ready: {reason}"


def test_never_ready_before_the_models_are_loaded(start: Start, tmp_path: Path) -> None:
    """While a model loads neither it nor the server is ready; both are live and tell.

    The others are ready as soon as they have loaded.
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


def test_a_required_model_that_failed_keeps_the_server_unready(
    start: Start, tmp_path: Path
) -> None:
    """Its reason is told until it loads or is unloaded; an optional one's is not."""
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
    """A model that is unloaded is not ready from the start of it, and is not missed.

    One that is loaded anew is ready all the time, also where that fails.
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


def test_a_handler_changes_its_mind(start: Start, tmp_path: Path) -> None:
    """What `model_ready` says counts at once, for the model and the server."""
    server = start("--handlers=moody=fakes.lives:Moody").wait_until_ready()
    assert [True, True] == [agreed(server, name) for name in ("moody", "")]
    (tmp_path / "moody.ill").touch()
    assert [False, False] == [agreed(server, name) for name in ("moody", "")]
    assert [line("moody", "its handler says so")] == reasons(server)
    (tmp_path / "moody.ill").unlink()
    assert [True, True] == [agreed(server, name) for name in ("moody", "")]


def test_readiness_as_the_server_stops(start: Start) -> None:
    """From the signal on the server is not ready; its models are, and they answer."""
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
