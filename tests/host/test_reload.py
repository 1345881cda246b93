"""Options that change while the host runs: detected, logged and applied at once."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, SecretStr

from oip_host import AissembleOIPKServe, InferenceRequest, RequestInput
from oip_host.config import property_watch as watch
from oip_host.config.model_options import ModelOptions
from oip_host.config.selection import Item
from oip_host.config.settings import Settings, reloadable_options
from oip_host.errors import ConfigurationError
from oip_host.hookspecs import HandlerEntry
from oip_host.host.planning import Wiring, plan
from oip_host.host.reload import ReloadPlan, plan_reload
from oip_host.plugins.choice import Choice
from oip_host.replicas.cluster import Cluster
from oip_host.telemetry.observer import Observer
from oip_host.workers.supervisor import MARGIN_S, Supervisor
from support.configuration import Levels
from support.control import change
from support.documents import quoted, tables
from support.fakes import Echo
from support.process import COMMAND, DEADLINE_S, Server, clean_environment, wait_for
from support.wire import infer_rest, request

Serve = Callable[..., Server]
NEXT_START = "takes effect at the next start: "


class Properties:
    """The `oip.properties` of a host under test."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "oip.properties"
        self.env = {"KRAUSENING_BASE": str(directory)}
        self.write()

    def write(self, *lines: str) -> None:
        self.file.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def properties(tmp_path: Path) -> Properties:
    """A properties file without options."""
    return Properties(tmp_path)


def wait_for_log(server: Server, *texts: str) -> None:
    """Wait until the log has all of these texts."""

    def missing() -> list[str]:
        return [text for text in texts if text not in server.log]

    wait_for(lambda: not missing(), f"{texts} in the log")


# -- a host that serves -------------------------------------------------------


def test_reloadable_options_apply_at_once(properties: Properties, serve: Serve) -> None:
    """New limits are logged and apply to the next request on an open connection."""
    server = serve(
        "--handlers=slow=fakes:Slow", "--header_timeout_s=7", env=properties.env
    )
    server.wait_until_ready()
    large = {"x-large": "x" * 4000}
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert 200 == client.get("/v2", headers=large).status_code
        properties.write(
            "models.slow.timeout_s=0.2",
            "oip_max_body_bytes=1000",
            "oip_max_header_bytes=2000",
            "oip_header_timeout_s=3",
            "oip_log_level=debug",
            "kserve_max_threads=9",
        )
        wait_for_log(
            server,
            "models.slow.timeout_s: 300.0 -> 0.2 (models.slow.timeout_s in oip.prop",
            "oip_max_body_bytes: 67108864 -> 1000 (oip_max_body_bytes in oip.prop",
            "oip_log_level: INFO -> DEBUG (oip_log_level in oip.properties)",
            "kserve_max_threads: 4 -> 9 (kserve_max_threads in oip.properties)",
            f"{NEXT_START}kserve_max_threads\n",
        )
        # the log comes first; without a reload the old limit would stay for ever
        body = request([0.0] * 1000, [1000])
        wait_for(lambda: infer_rest(server, "slow", body).status == 413, "413")
        assert 431 == client.get("/v2", headers=large).status_code
    assert 504 == infer_rest(server, "slow", request([2.0], [1])).status
    assert "oip_header_timeout_s:" not in server.log  # an argument takes precedence


def test_update_of_a_config_map_is_detected(tmp_path: Path, serve: Serve) -> None:
    """Kubernetes updates a ConfigMap by replacing one link to a directory."""

    def version(number: int, *lines: str) -> None:
        made = tmp_path / f"..2026_0{number}"
        Properties.write(_in(made), *lines)
        (tmp_path / "..data_tmp").symlink_to(made.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    version(1, "models.echo.max_queue=5")
    (tmp_path / "oip.properties").symlink_to("..data/oip.properties")
    env = {"KRAUSENING_BASE": str(tmp_path)}
    server = serve("--handlers=echo=fakes:Echo", env=env).wait_until_ready()
    version(2, "models.echo.max_queue=6")
    wait_for_log(server, "models.echo.max_queue: 5 -> 6 ")


def _in(directory: Path) -> Properties:
    directory.mkdir()
    return Properties(directory)


def test_reload_with_a_fault_changes_no_option(
    properties: Properties, serve: Serve
) -> None:
    """All or nothing: valid changes wait until the invalid ones are corrected."""
    properties.write("oip_max_body_bytes=2000")
    server = serve("--handlers=echo=fakes:Echo", env=properties.env).wait_until_ready()
    good = ("oip_max_body_bytes=100", "models.echo.max_queue=6")
    properties.write(*good, "oip_max_body_bites=1", "models.echo.timeout_s=soon")
    wait_for_log(
        server,
        "oip.properties: unknown property 'oip_max_body_bites', nearest: 'oip_max_body",
        "models.echo.timeout_s in oip.properties: found 'soon', expected",
        "reload rejected, no option changed: the new configuration is invalid",
    )
    body = request([1.0] * 50, [50])
    assert 200 == infer_rest(server, "echo", body).status
    assert " -> " not in server.log
    properties.write(*good)
    wait_for(lambda: infer_rest(server, "echo", body).status == 413, "413")
    wait_for_log(server, "oip_max_body_bytes: 2000 -> 100 ", "max_queue: 256 -> 6 ")


def test_sighup_reads_the_options_again(serve: Serve) -> None:
    """SIGHUP stops nothing and is logged, even if no properties are in use."""
    server = serve("--handlers=echo=fakes:Echo").wait_until_ready()
    server.process.send_signal(signal.SIGHUP)
    wait_for_log(server, "reloaded: no option has changed")
    assert 200 == server.get("/v2/health/ready").status_code
    assert 0 == server.stop()


def test_sighup_of_a_closed_terminal_stops_the_host() -> None:
    """If the host's terminal was closed, SIGHUP stops the host as usual."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "serve", "--handlers=fakes:Echo", "--http_port=0", "--grpc_port=0",
         "--bind=127.0.0.1"],
        env=clean_environment(), stdin=its, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "is READY" in line:
                break
        os.close(its)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert "received SIGHUP, draining" in process.stderr.read()
        assert 0 == process.wait(timeout=30)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_every_worker_applies_a_reload(properties: Properties, serve: Serve) -> None:
    """A changed file or a SIGHUP reloads all workers and stops none of them."""
    server = serve("--handlers=echo=fakes:Echo", "--workers=2", env=properties.env)
    server.wait_until_ready()
    wait_for(lambda: server.log.count("is READY") == 2, "both workers")
    properties.write("models.echo.max_queue=6", "oip_log_level=debug")
    wait_for(lambda: server.log.count("max_queue: 256 -> 6 ") == 2, "both workers")
    server.process.send_signal(signal.SIGHUP)
    again = "reloaded: no option has changed"
    wait_for(lambda: server.log.count(again) == 2, "both workers, asked")
    assert 0 == server.stop()
    assert "starting another one" not in server.log


def test_reloaded_model_has_the_current_options(
    properties: Properties, serve: Serve
) -> None:
    """A model that is loaded again has the current options, not those of the start."""
    server = serve(
        "--handlers=slow=fakes:Slow", "--model_control=explicit", env=properties.env
    )
    server.wait_until_ready()
    properties.write("models.slow.timeout_s=0.2")
    late = request([1.0], [1])
    wait_for(lambda: infer_rest(server, "slow", late).status == 504, "504")
    assert 200 == change(server, "rest", "load", "slow").status
    assert 504 == infer_rest(server, "slow", late).status


# -- differences ---------------------------------------------------------------


class Guarded(Echo):
    """A handler with a secret setting."""

    class Settings(BaseModel):
        door: SecretStr = SecretStr("shut")
        colour: str = "red"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


@pytest.fixture
def levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Levels:
    for name in clean_environment().keys() ^ os.environ.keys():
        monkeypatch.delenv(name, raising=False)
    return Levels(tmp_path, monkeypatch)


def differing(
    levels: Levels,
    before: dict[str, str],
    after: dict[str, str],
    arguments: Sequence[str] = (),
) -> ReloadPlan:
    """Return the plan for a change of the properties of the model `a`."""
    configuration, faults = levels.read(arguments, properties=before or {"#": ""})
    assert not faults
    entry = HandlerEntry("guarded", "x:Guarded", lambda: Guarded)
    choice = Choice(Item("guarded", "a"), entry, named=True)
    wiring = Wiring(None, Observer(), Cluster())
    started = plan([choice], configuration.origins, wiring)
    assert not started.faults
    levels.properties(after)
    return plan_reload(configuration, started.models)


def test_secret_is_logged_without_its_value(levels: Levels) -> None:
    """Neither the old nor the new value of a secret is shown."""
    found = differing(
        levels,
        {"models.a.settings.door": "s3same", "models.a.settings.colour": "red"},
        {"models.a.settings.door": "s4same", "models.a.settings.colour": "blue"},
    )
    door, colour = map(str, found.changes)
    assert "models.a.settings.door: ******** -> ******** (" in door
    assert "models.a.settings.colour: 'red' -> 'blue' (" in colour
    assert [False, False] == [each.at_once for each in found.changes]


def test_removed_option_returns_to_its_default(levels: Levels) -> None:
    """Removing a line from the file is a change too."""
    found = differing(levels, {"oip_max_connections": "7"}, {"oip_bind": "0.0.0.0"})
    (only,) = found.changes
    assert "oip_max_connections: 7 -> 1000 (default)" == str(only)
    assert 1000 == found.configuration.settings.oip_max_connections


def test_options_that_cannot_be_reloaded_stay_in_effect(levels: Levels) -> None:
    """The plan has the new values of reloadable options and the old ones otherwise."""
    found = differing(
        levels,
        {"models.a.max_concurrency": "2", "oip_model_control": "none"},
        {
            "models.a.max_concurrency": "3",
            "models.a.max_queue": "9",
            "oip_model_control": "explicit",
            "oip_grace_period_s": "1",
        },
    )
    ((planned, options),) = found.models
    assert (2, 9) == (options.max_concurrency, options.max_queue)
    assert {"max_concurrency", "max_queue"} == {path[0] for path in planned.values}
    assert "none" == found.configuration.settings.oip_model_control
    assert 1.0 == found.configuration.settings.oip_grace_period_s
    assert ["oip_grace_period_s", "models.a.max_queue"] == [
        each.option for each in found.changes if each.at_once
    ]


@pytest.mark.parametrize(
    ("before", "after", "at_once"), [(4, 8, True), (1, 8, False), (8, 1, False)]
)
def test_reload_resizes_batches_but_does_not_toggle_them(
    levels: Levels, before: int, after: int, at_once: bool
) -> None:
    """`max_batch_size` is reloadable if there are batches both before and after."""
    name = "models.a.max_batch_size"
    found = differing(levels, {name: str(before)}, {name: str(after)})
    assert [(name, at_once)] == [(c.option, c.at_once) for c in found.changes]
    ((_, options),) = found.models
    assert (after if at_once else before) == options.max_batch_size


def test_all_faults_are_reported_at_once(levels: Levels) -> None:
    """Faults of the server, a model, its settings and the selection are one error."""
    with pytest.raises(ConfigurationError) as error:
        differing(
            levels,
            {},
            {
                "oip_max_connections": "0",
                "models.a.timeout_s": "-1",
                "models.a.settings.windows": "open",
                "oip_handlers": "=",
            },
        )
    told = "\n".join(error.value.faults)
    names = ("oip_max_connections", "timeout_s", "windows", "OIP_HANDLERS")
    assert [name for name in names if name not in told] == []


def test_docs_list_the_reloadable_options() -> None:
    """The page lists the options that are declared as reloadable, and no others."""
    of_models = {f"models.<name>.{name}" for name in reloadable_options(ModelOptions)}
    rows = tables("configuration.md")["option that may change|takes effect"]
    listed = [name for row in rows for name in quoted(row[0])]
    assert sorted(reloadable_options(Settings) | of_models) == sorted(listed)


# -- parts --------------------------------------------------------------------


async def test_next_batch_has_the_new_size() -> None:
    """A running model forms its next batch with its new options."""
    sizes: list[int] = []

    class Sizes(Echo):
        def infer(self, payload: Any, *args: Any) -> Any:
            sizes.append(payload.inputs[0].shape[0])
            return super().infer(payload, *args)

    model = AissembleOIPKServe(
        "a", Sizes(), options=ModelOptions(max_batch_size=8, max_batch_delay_ms=60_000)
    )
    await model.load_handler()
    model.reconfigure(ModelOptions(max_batch_size=2, max_batch_delay_ms=60_000))

    def one() -> Any:
        tensor = RequestInput(name="x", shape=[1], datatype="FP32", data=[1.0])
        return model.infer(InferenceRequest(inputs=[tensor]))

    await asyncio.gather(one(), one(), one(), one())
    assert [2, 2] == sizes
    await model.unload_handler()


async def test_successor_takes_over_changed_options() -> None:
    """Options that change while a model reloads are not lost."""
    model = AissembleOIPKServe("a", Echo)
    successor = model.copy_unloaded()
    assert successor is not None
    model.reconfigure(ModelOptions(max_queue=3))
    model.retire(successor)
    assert 3 == successor.options.max_queue


@pytest.fixture
def no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that sends no events."""
    monkeypatch.setattr(watch, "_observe", lambda *_: nullcontext())
    monkeypatch.setattr(watch, "CHECK_EVERY_S", 0.02)


async def test_change_without_an_event_is_detected(
    properties: Properties, monkeypatch: pytest.MonkeyPatch, no_events: None
) -> None:
    """On a file system without events the content is checked periodically."""
    monkeypatch.setenv("KRAUSENING_BASE", properties.env["KRAUSENING_BASE"])
    async with aclosing(watch.PropertyWatcher().watch()) as reasons:
        assert not await anext(reasons)  # the content at the start
        properties.write("oip_log_level=debug")
        assert not await asyncio.wait_for(anext(reasons), DEADLINE_S)
        with pytest.raises(asyncio.TimeoutError):  # then nothing changes
            await asyncio.wait_for(anext(reasons), 0.2)


async def test_unobservable_directory_is_checked_periodically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without inotify the host logs a warning and checks the content periodically."""
    monkeypatch.setenv("KRAUSENING_BASE", str(tmp_path / "later"))
    monkeypatch.setattr(watch, "CHECK_EVERY_S", 0.02)
    async with aclosing(watch.PropertyWatcher().watch()) as reasons:
        first = asyncio.ensure_future(anext(reasons))
        await asyncio.sleep(0)
        _in(tmp_path / "later").write("oip_log_level=debug")
        assert not await asyncio.wait_for(first, DEADLINE_S)
    assert "checking them every 0.02 s instead: " in caplog.text


async def test_supervisor_follows_the_grace_period(
    levels: Levels,
) -> None:
    """The supervisor does not kill workers within a grace period that was extended."""
    configuration, _ = levels.read(properties={"oip_drain_delay_s": "0"})
    levels.properties({"oip_drain_delay_s": "3", "oip_grace_period_s": "100"})
    supervisor = Supervisor(configuration, {"kserve_http_port": 1}, str(levels))
    following = asyncio.create_task(supervisor._follow_options())
    while supervisor._stop_timeout_s < 103 + MARGIN_S:  # noqa: ASYNC110  # it has no event
        await asyncio.sleep(0.01)
    following.cancel()
