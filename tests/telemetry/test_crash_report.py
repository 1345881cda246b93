"""The crash report names the model that kills the process; the limit of `check`."""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from oip_host import AissembleOIPKServe, InferenceRequest, RequestInput
from oip_host.config.model_options import ModelOptions
from support.fakes import Echo
from support.process import Server, oip_host, wait_for
from support.wire import request

FAULT = "Fatal Python error: "
FRAME = (
    "File \"<handler '{0}' (fakes.crashes:{0}, no distribution)>\", "
    "line {1} in model 'fraud' version '1'"
)


def named(log: str, handler: str) -> bool:
    """Return whether the stack of the dead thread names the model and its handler."""
    _, _, stacks = log.partition(FAULT)  # of all threads, in any order
    thread = stacks.partition("Current thread ")[2].partition("\n\n")[0]
    line = thread.partition('>", line ')[2].partition(" in model")[0]
    return FRAME.format(handler, line) in thread


class Stacks:
    """Keeps the stack of each of its calls."""

    def __init__(self) -> None:
        self.stacks: dict[str, list[traceback.FrameSummary]] = {}
        self._echo = Echo()

    def _keep(self, call: str) -> None:
        self.stacks[call] = traceback.extract_stack()

    def infer(self, *args: Any) -> Any:
        self._keep("infer")
        return self._echo.infer(*args)

    def model_load(self, *args: Any) -> Any:
        self._keep("model_load")
        return self._echo.model_load(*args)

    def model_metadata(self, *args: Any) -> Any:
        self._keep("model_metadata")
        return self._echo.model_metadata(*args)

    def model_ready(self, *args: Any) -> Any:
        self._keep("model_ready")
        return self._echo.model_ready(*args)

    def model_unload(self, *args: Any) -> Any:
        self._keep("model_unload")


class StacksAsync(Stacks):
    """`Stacks` with every method in an event loop."""

    async def infer(self, *args: Any) -> Any:
        return Stacks.infer(self, *args)

    async def model_load(self, *args: Any) -> Any:
        return Stacks.model_load(self, *args)

    async def model_metadata(self, *args: Any) -> Any:
        return Stacks.model_metadata(self, *args)

    async def model_ready(self, *args: Any) -> Any:
        return Stacks.model_ready(self, *args)

    async def model_unload(self, *args: Any) -> Any:
        return Stacks.model_unload(self, *args)


@pytest.mark.parametrize("max_batch_size", [1, 8], ids=["single", "batch"])
@pytest.mark.parametrize("made", [Stacks, StacksAsync], ids=["plain", "async"])
async def test_every_handler_call_has_a_frame_with_its_model(
    made: type[Stacks], max_batch_size: int
) -> None:
    """The stack of each handler call names the model, its version and the class."""
    handler = made()
    options = ModelOptions(max_batch_size=max_batch_size)
    model = AissembleOIPKServe("fraud", handler, version="7", options=options)
    await model.load_handler()
    tensor = RequestInput(name="x", shape=[1], datatype="FP32", data=[1.0])
    await model.infer(InferenceRequest(inputs=[tensor]))
    await model.healthy()
    await model.unload_handler()
    frame = (
        f"<handler {made.__module__}.{made.__name__}>",
        "model 'fraud' version '7'",
    )
    calls = ["infer", "model_load", "model_metadata", "model_ready", "model_unload"]
    assert calls == sorted(handler.stacks)
    for call, stack in handler.stacks.items():
        assert frame in [(each.filename, each.name) for each in stack], call


def test_frame_name_is_one_ascii_line() -> None:
    """A frame's name has no line ends and no bytes beyond ASCII."""
    from oip_host.telemetry.crash_report import Frames

    name = Frames("a\nb\u2028é", "1", "handler x").call.__code__.co_name
    assert "model 'a\\nb\\u2028\\xe9' version '1'" == name


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        ("Dies", ()),
        ("DiesAsync", ("--models.fraud.max_batch_size=8",)),
    ],
    ids=["plain", "async in a batch"],
)
def test_native_crash_names_model_and_handler(
    handler: str, options: tuple[str, ...], serve: Callable[..., Server]
) -> None:
    """The last lines of the log name the model and handler that killed the host."""
    server = serve(f"--handlers=fraud=fakes.crashes:{handler},ok=fakes:Echo", *options)
    server.wait_until_ready()
    with pytest.raises(httpx.HTTPError):
        server.post("/v2/models/fraud/infer", json=request([1, 2], [1, 2]))
    assert -signal.SIGSEGV == server.wait()
    assert named(server.log, handler), server.log


@pytest.mark.slow
def test_killed_worker_is_reported_and_replaced(
    serve: Callable[..., Server],
) -> None:
    """The worker names the model, the supervisor the signal, and the host goes on."""
    server = serve("--handlers=fraud=fakes.crashes:Dies,ok=fakes:Echo", "--workers=2")
    server.wait_until_ready()
    with pytest.raises(httpx.HTTPError):
        server.post("/v2/models/fraud/infer", json=request([1, 2], [1, 2]))
    wait_for(lambda: "was killed by SIGSEGV" in server.log, "the supervisor's line")
    assert named(server.log, "Dies"), server.log
    server.wait_until_ready()
    answer = server.post("/v2/models/ok/infer", json=request([1, 2], [1, 2]))
    assert 200 == answer.status_code


def test_crash_during_load_names_the_model() -> None:
    """`check` too names the model that killed it, and the signal."""
    done = oip_host("check", "--handlers=ok=fakes:Echo,fraud=fakes.crashes:DiesLoading")
    assert -signal.SIGABRT == done.returncode
    assert named(done.stderr, "DiesLoading"), done.stderr


def test_crash_during_import_names_handler() -> None:
    """The crash of a library that this CPU cannot run names the importing handler."""
    done = oip_host("check", "--handlers=fraud=dies_imported:Handler")
    assert -signal.SIGILL == done.returncode
    handler = "<handler 'Handler' (dies_imported:Handler, no distribution)>"
    (line,) = [line for line in done.stderr.splitlines() if handler in line]
    assert line.endswith(" in its import")


# -- the limit of `check` -----------------------------------------------------


def checked(handler: str) -> Any:
    """Return the states of `ok` and of a model that never loads, and the exit code."""
    done = oip_host(
        "check", "--json", "--timeout_s=10",
        f"--handlers=ok=fakes:Echo,late=fakes.crashes:{handler}",
    )  # fmt: skip
    models = json.loads(done.stdout)["models"]
    return [(m["state"], m["reason"]) for m in models], done.returncode


@pytest.mark.parametrize(
    "handler", ["SleepsAsync", pytest.param("Sleeps", marks=pytest.mark.slow)]
)
def test_check_gives_up_a_model_that_loads_too_long(handler: str) -> None:
    """After `--timeout_s` the model is unavailable, and the exit code is 1."""
    late = ("UNAVAILABLE", "it did not load within 10 s")
    assert ([("READY", ""), late], 1) == checked(handler)


@pytest.mark.slow
def test_check_ends_a_load_that_holds_the_gil() -> None:
    """A load that holds the interpreter's lock ends with traceback and exit code 1."""
    done = oip_host("check", "--timeout_s=0.5", "--handlers=late=fakes.crashes:Holds")
    assert 1 == done.returncode
    assert "in model 'late' version '1'" in done.stderr
