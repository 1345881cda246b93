"""Host extensions: what a package can do in the group `oip.plugins`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pluggy
import pytest

from oip_handler.errors import OIPError
from oip_host import InferenceRequest, hookspecs
from oip_host.hookspecs import Inference, State, StateChange, hookimpl
from oip_host.host.hook_observer import observe_with_hooks
from oip_host.model_server import AissembleOIPKServe
from oip_host.plugins import discovery as plugins
from oip_host.telemetry.context import RequestContext
from oip_host.telemetry.observer import Observer
from support.fakes import Echo, LoadFalse, Raises
from support.packages import Package, pip_install, with_packages
from support.process import Server, oip_host

MODULES = {
    "oip_test_scan": """\
        import os
        from functools import partial
        from pathlib import Path

        from oip_host import HandlerEntry, hookimpl


        def load(path):
            from fakes import Echo

            return type(path.stem.title(), (Echo,), {})


        @hookimpl
        def oip_handlers():
            for path in Path(os.environ["OIP_TEST_SCAN"]).glob("*.model"):
                yield HandlerEntry(path.stem, str(path), partial(load, path))
    """,
    "oip_test_record": """\
        import dataclasses
        import json
        import os

        from oip_host import hookimpl


        class Recorder:
            def __init__(self):
                self.file = os.environ["OIP_TEST_RECORDS"]

            def write(self, record):
                with open(self.file, "a") as file:
                    file.write(json.dumps(dataclasses.asdict(record)) + "\\n")

            @hookimpl
            def oip_model_state(self, change):
                self.write(change)

            @hookimpl
            def oip_inference(self, inference):
                self.write(inference)
    """,
    "oip_test_command": """\
        from oip_host import hookimpl


        @hookimpl
        def oip_commands(app):
            @app.command()
            def greet(name: str):
                "Greet somebody by name."
                print("hello", name)
    """,
    "oip_test_exit": "raise SystemExit('no, thanks')\n",
    "oip_test_hook": """\
        from oip_host import hookimpl


        @hookimpl
        def oip_model_states(change):
            raise AssertionError
    """,
    "oip_test_far_hook": """\
        from oip_host import hookimpl


        @hookimpl
        def something_else():
            raise AssertionError
    """,
    "oip_test_argument": """\
        from oip_host import hookimpl


        @hookimpl
        def oip_inference(inference, request):
            raise AssertionError


        @hookimpl
        def oip_handlers():
            raise AssertionError
    """,
}
POINTS = {
    "scan": "oip_test_scan",
    "record": "oip_test_record:Recorder",
    "command": "oip_test_command",
    "missing": "oip_test_no_such_module",
    "exit": "oip_test_exit",
    "hook": "oip_test_hook",
    "far-hook": "oip_test_far_hook",
    "argument": "oip_test_argument",
}
PACKAGE = Package("oip-test-extensions", "4.5.6", MODULES, {"oip.plugins": POINTS})
INFERENCE = "oip_inference(inference: 'Inference') -> 'None'"
STATE = "oip_model_state(change: 'StateChange') -> 'None'"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package, as `pip install` leaves it."""
    return pip_install([PACKAGE], tmp_path_factory.mktemp("extensions"))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """The file that the recording extension writes to."""
    return tmp_path / "records"


@pytest.fixture
def env(installed: Path, records: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a process with the extensions and a directory to scan."""
    scanned = tmp_path / "scanned"
    scanned.mkdir()
    for name in ("north", "south"):
        (scanned / f"{name}.model").touch()
    extra = {"OIP_TEST_SCAN": str(scanned), "OIP_TEST_RECORDS": str(records)}
    return with_packages(installed, extra)


# -- installed --------------------------------------------------------------------


def test_extension_offers_handlers_from_a_directory(env: dict[str, str]) -> None:
    """Handlers that an extension finds by scanning a directory are listed."""
    done = oip_host("list", "--json", "--handlers=north,m=south?", env=env)
    assert done.returncode == 0, done.stderr
    rows = {row["handler"]: row for row in json.loads(done.stdout)["handlers"]}
    assert rows["north"] == {
        "handler": "north",
        "distribution": None,
        "version": None,
        "object": str(Path(env["OIP_TEST_SCAN"], "north.model")),
        "selected": True,
        "models": ["north@1"],
        "why": "named",
    }
    assert rows["south"]["models"] == ["m@1?"]


def test_extension_adds_a_command(env: dict[str, str]) -> None:
    """An extension's command runs and appears in the help like the host's own."""
    done = oip_host("greet", "world", env=env)
    assert (done.returncode, done.stdout) == (0, "hello world\n")
    done = oip_host("--help", env=env)
    assert done.returncode == 0, done.stderr
    assert "Greet somebody by name." in done.stdout
    assert "serve" in done.stdout


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing", ["No module named 'oip_test_no_such_module'", "Traceback"]),
        ("exit", ["no, thanks", "Traceback"]),
        (
            "hook",
            ["unknown hook 'oip_model_states', nearest: 'oip_model_state'", STATE],
        ),
        ("far-hook", ["unknown hook 'something_else'", STATE, INFERENCE]),
        ("argument", ["'request'", "oip_inference(inference, request)", INFERENCE]),
    ],
)
def test_invalid_extension_is_reported_and_skipped(
    name: str, expected: list[str], env: dict[str, str]
) -> None:
    """The log names the extension, its package, the fault and what was expected.

    None of its hooks is called: each would raise. The other extensions work.
    """
    done = oip_host("list", "--json", "--handlers=north", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["faults"] == []
    start = f"skipping host extension '{name}' of oip-test-extensions 4.5.6: "
    report = done.stderr.partition(start)[2].partition("host extension")[0]
    assert report
    assert [text for text in expected if text not in report] == []


def test_valid_extensions_are_not_reported(env: dict[str, str]) -> None:
    """The log names only the extensions that are skipped."""
    done = oip_host("list", "--json", "--handlers=north", env=env)
    told = [name for name in POINTS if f"host extension '{name}'" in done.stderr]
    assert told == ["missing", "exit", "hook", "far-hook", "argument"]


def test_extension_records_states_and_inferences(
    env: dict[str, str], records: Path, serve: Callable[..., Server]
) -> None:
    """A server reports every state change and every finished inference to an extension.

    The model's handler comes from another extension.
    """
    server = serve("--handlers=m@2=north", env=env).wait_until_ready()
    good = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    bad = {**good, "shape": [3]}
    for tensor, status in ((good, 200), (bad, 400)):
        answer = server.post("/v2/models/m/infer", json={"inputs": [tensor]})
        assert answer.status_code == status, answer.text
    assert server.stop() == 0
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert {(line["model"], line["version"]) for line in lines} == {("m", "2")}
    states = [line for line in lines if "state" in line]
    expected = ["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]
    assert [line["state"] for line in states] == expected
    assert states[1]["load_s"] > 0
    assert states[-1]["reason"] == "unloaded"
    first, second = (line for line in lines if "outcome" in line)
    assert (first["protocol"], first["outcome"]) == ("rest", "ok")
    assert (first["elements_in"], first["elements_out"]) == (2, 2)
    assert 0 < first["handler_s"] <= first["total_s"]
    assert (second["protocol"], second["outcome"]) == ("rest", "InvalidRequest")
    assert second["elements_out"] == 0


# -- within a process -------------------------------------------------------------


class Recorder:
    """An extension that records state changes and inferences."""

    def __init__(self) -> None:
        self.states: list[StateChange] = []
        self.inferences: list[Inference] = []

    @hookimpl
    def oip_model_state(self, change: StateChange) -> None:
        self.states.append(change)

    @hookimpl
    def oip_inference(self, inference: Inference) -> None:
        self.inferences.append(inference)


class States:
    """An extension with only the hook for states."""

    @hookimpl
    def oip_model_state(self, change: StateChange) -> None:
        pass


class Failing:
    """An extension whose hooks raise."""

    @hookimpl
    def oip_model_state(self, change: StateChange) -> None:
        raise RuntimeError("no state, please")

    @hookimpl
    def oip_inference(self, inference: Inference) -> None:
        raise RuntimeError("no inference, please")


def hooks(*extensions: object) -> Observer:
    """Return an observer for exactly these extensions."""
    manager = pluggy.PluginManager("oip_host")
    manager.add_hookspecs(hookspecs)
    for extension in extensions:
        manager.register(extension)
    return observe_with_hooks(manager)


def request(datatype: str = "FP32", data: Any = (1.0, 2.0)) -> InferenceRequest:
    """Return a request with one input."""
    tensor = {"name": "x", "shape": [len(data)], "datatype": datatype, "data": data}
    return InferenceRequest.model_validate({"inputs": [tensor]})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Inference]:
    """The records of all inferences that any model creates during the test."""
    records: list[Inference] = []

    def make(*arguments: Any) -> Inference:
        records.append(Inference(*arguments))
        return records[-1]

    monkeypatch.setattr("oip_host.models.model.Inference", make)
    return records


@pytest.mark.parametrize(
    ("extensions", "count"),
    [((), 0), ((States(),), 0), ((Recorder(),), 1), ((States(), Recorder()), 1)],
    ids=["none", "states", "inferences", "both"],
)
async def test_no_record_without_a_listener(
    extensions: tuple[object, ...], count: int, made: list[Inference]
) -> None:
    """A record of an inference is created only if an extension has that hook."""
    model = AissembleOIPKServe("m", Echo(), observer=hooks(*extensions))
    await model.load_handler()
    await model.infer(request())
    await model.unload_handler()
    assert len(made) == count


async def test_record_describes_a_failed_inference() -> None:
    """The record of a failed inference has its model, protocol, outcome and sizes."""
    recorder = Recorder()
    model = AissembleOIPKServe("m", Raises(), version="2", observer=hooks(recorder))
    await model.load_handler()
    for text in ("ValueError", "RuntimeError", "Overloaded"):
        with pytest.raises(OIPError):
            await model.infer(request("BYTES", [text]), RequestContext("grpc"))
    await model.unload_handler()
    assert [record.outcome for record in recorder.inferences] == [
        "InvalidRequest",
        "HandlerFault",
        "Overloaded",
    ]
    for record in recorder.inferences:
        assert (record.model, record.version, record.protocol) == ("m", "2", "grpc")
        assert (record.elements_in, record.elements_out) == (1, 0)
        assert record.total_s >= record.handler_s > 0


async def test_states_of_a_failed_load() -> None:
    """The state after a failed load has its reason and duration."""
    recorder = Recorder()
    model = AissembleOIPKServe("m", LoadFalse(), observer=hooks(recorder))
    assert await model.load_handler() is False
    loading, failed = recorder.states
    assert (loading.state, loading.reason, loading.load_s) == ("LOADING", "", None)
    assert failed.state == "UNAVAILABLE"
    assert failed.reason == "model_load returned False"
    assert failed.load_s is not None
    await model.unload_handler()


async def test_extension_that_raises_does_not_affect_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An exception in an extension is logged; the model still loads and answers."""
    with caplog.at_level(logging.ERROR, logger="oip_host"):
        model = AissembleOIPKServe("m", Echo(), observer=hooks(Failing()))
        assert await model.load_handler() is True
        answer = await model.infer(request())
        await model.unload_handler()
    assert list(answer.outputs[0].data) == [1.0, 2.0]
    assert "no state, please" in caplog.text
    assert "no inference, please" in caplog.text


def test_extension_that_raises_does_not_stop_the_others() -> None:
    """Every listener is called, even if another one raises."""
    heard: list[str] = []

    class First:
        @hookimpl
        def oip_model_state(self, change: StateChange) -> None:
            heard.append(change.model)

    class Fails:
        @hookimpl
        def oip_model_state(self) -> None:
            raise RuntimeError("not today")

    manager = plugins.create_manager([First(), Fails()])
    change = StateChange("fraud", "1", State.READY)
    answers = plugins.call_each(manager.hook.oip_model_state, change=change)
    assert heard == ["fraud"]
    assert answers == []
