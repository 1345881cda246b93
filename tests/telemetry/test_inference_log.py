"""The latency log: one line per inference, written in bulk, and none is lost."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from select import PIPE_BUF

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oip_host.config import selection
from oip_host.hookspecs import Inference, State, StateChange
from oip_host.telemetry import inference_log as latency_module
from oip_host.telemetry.inference_log import LatencyLog
from support.process import Server, wait_for
from support.wire import ONE, infer_both, infer_grpc, infer_rest, request

Serve = Callable[..., Server]
LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(?P<ms>\d{3}) (?P<pid>\d+) "
    r"oip_host\.latency (?P<text>model=(?P<model>\S+) version=(?P<version>\S+) "
    r"protocol=(?P<protocol>\S+) outcome=(?P<outcome>\S+) "
    r"queue_ms=\d+\.\d{3} predict_ms=\d+\.\d{3} total_ms=\d+\.\d{3} "
    r"batch_size=\d+ request_id=(?P<id>\S+))"
)


def inference(number: int = 0, model: str = "m") -> Inference:
    """Return a record whose version is its number."""
    return Inference(
        model, str(number), "rest", "ok", 0.0125, 0.5, 0.515, 1, 1, 2, request_id="r-1"
    )


TEXT = (
    "model=m version=0 protocol=rest outcome=ok queue_ms=12.500 predict_ms=500.000 "
    "total_ms=515.000 batch_size=2 request_id=r-1"
)
CHANGE = StateChange("m", "1", State.UNAVAILABLE, "unloaded")


class Stream(io.StringIO):
    """A stream that remembers the text of each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def latency(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, level: int
) -> Iterator[LatencyLog]:
    """A latency log that writes to the stream, with the logger at a level."""
    monkeypatch.setattr(latency_module, "WRITE_EVERY_S", 0.01)
    before = latency_module.latency_log.level
    latency_module.latency_log.setLevel(level)
    yield LatencyLog(logging.StreamHandler(stream))
    latency_module.latency_log.setLevel(before)


@pytest.fixture
def level() -> int:
    return logging.INFO


async def written(stream: Stream, count: int) -> None:
    """Wait for this number of writes while the loop runs."""
    for _ in range(1000):
        if len(stream.writes) >= count:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nothing was written")


# -- lines --------------------------------------------------------------------


async def test_line_has_time_process_and_durations(
    latency: LatencyLog, stream: Stream
) -> None:
    """A line has the form of KServe's trace lines and the inference's local time."""
    before = time.time()
    latency.oip_inference(inference())
    await written(stream, 1)
    (line,) = stream.lines
    match = LINE.fullmatch(line)
    assert match is not None
    assert TEXT == match["text"]
    assert str(os.getpid()) == match["pid"]
    seconds = time.mktime(time.strptime(match["time"], "%Y-%m-%d %H:%M:%S"))
    assert before - 0.002 <= seconds + int(match["ms"]) / 1000 <= time.time()


async def test_lines_are_written_together(latency: LatencyLog, stream: Stream) -> None:
    """The lines of one interval are one write, in order, and none is left out."""
    for stretch in range(3):
        for n in range(20):
            latency.oip_inference(inference(20 * stretch + n))
        assert stretch == len(stream.writes)
        await written(stream, stretch + 1)
    assert 3 == len(stream.writes)
    found = [match["version"] for match in map(LINE.fullmatch, stream.lines) if match]
    assert list(map(str, range(60))) == found


async def test_writes_to_a_pipe_are_whole_short_lines(
    latency: LatencyLog, stream: Stream
) -> None:
    """Processes may share the stream, so each write is short and has whole lines only.

    The kernel keeps only writes of up to PIPE_BUF bytes in one piece.
    """
    for _ in range(200):
        latency.oip_inference(inference())
    latency.write()
    assert 1 < len(stream.writes) < 20
    assert all(len(text) <= PIPE_BUF and text[-1] == "\n" for text in stream.writes)
    assert 200 == len(stream.lines)


async def test_each_line_has_its_own_time(
    latency: LatencyLog, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that are written together may come from different seconds."""
    moments = [1_700_000_000.0, 1_700_000_000.9999997, 1_700_000_001.25]
    for moment in moments:
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        latency.oip_inference(inference())
    latency.write()
    second = [time.localtime(moment) for moment in moments]
    assert [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', at)}.{ms}"
        for at, ms in zip(second, ("000", "999", "250"), strict=True)
    ] == [line.split(f" {os.getpid()}")[0] for line in stream.lines]


async def test_state_change_writes_earlier_lines_first(
    latency: LatencyLog, stream: Stream
) -> None:
    """A model's lines come before its end, which may be the host's end too."""
    latency.oip_inference(inference())
    latency.oip_model_state(CHANGE)
    assert 1 == len(stream.lines)
    latency.oip_model_state(CHANGE)
    await asyncio.sleep(0.05)
    assert 1 == len(stream.writes)


@pytest.mark.parametrize("level", [logging.WARNING, logging.CRITICAL])
async def test_no_lines_above_level_info(
    latency: LatencyLog, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    """Above INFO nothing is written or kept, with a handler or without one."""
    for one in (latency, LatencyLog()):
        one.oip_inference(inference())
        one.write()
        assert [] == one._waiting
    assert [] == stream.writes
    assert [] == caplog.records


async def test_without_a_handler_each_line_is_a_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A program's logging decides where `oip_host.latency` goes, and in what form.

    A `%` in a name is no format directive.
    """
    latency = LatencyLog()
    with caplog.at_level(logging.INFO, logger="oip_host.latency"):
        for n in range(3):
            latency.oip_inference(inference(n, "100%s"))
        latency.oip_model_state(CHANGE)
    line = TEXT.replace("model=m", "model=100%s")
    expected = [line.replace("version=0", f"version={n}") for n in range(3)]
    assert expected == [record.getMessage() for record in caplog.records]
    assert {"oip_host.latency"} == {record.name for record in caplog.records}
    assert {"INFO"} == {record.levelname for record in caplog.records}


@given(
    st.text(max_size=9), st.sampled_from(["\n", "\r", "\x0b", "\x85", "\u2028", " "])
)
def test_no_selection_makes_a_second_line(text: str, end: str) -> None:
    """No name or version that `OIP_HANDLERS` can give to a model breaks a line."""
    word = f"{text}{end}{text}"
    for written in (f"{word}=echo", f"m@{word}=echo", f"fakes:{word}", f"x/{word}"):
        chosen, _ = selection.parse(written)
        for item in chosen.items:
            assert [item.model] == item.model.split()
            assert [item.version] == item.version.split()


# -- real servers -------------------------------------------------------------


def latency_lines(server: Server) -> list[re.Match[str]]:
    """Return all lines of the latency log; each must have its form."""
    lines = [line for line in server.log.splitlines() if "oip_host.latency" in line]
    matches = [LINE.fullmatch(line) for line in lines]
    assert None not in matches, lines
    return [match for match in matches if match is not None]


def test_no_line_is_lost_at_shutdown(serve: Serve) -> None:
    """Requests by both protocols, valid or not, each have a line after SIGTERM."""
    server = serve("--handlers=echo=fakes:Echo,other@3=fakes:Echo").wait_until_ready()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(infer_rest, server, "echo", ONE) for _ in range(40)]
        asked += [pool.submit(infer_grpc, server, "other", ONE) for _ in range(10)]
        wrong = request([1.0], [2])
        asked += [pool.submit(infer_rest, server, "other", wrong) for _ in range(6)]
        for job in asked:
            job.result()
    assert 0 == server.stop()
    counted: dict[tuple[str, ...], int] = {}
    for match in latency_lines(server):
        key = match.group("model", "version", "protocol", "outcome")
        counted[key] = counted.get(key, 0) + 1
        assert str(server.process.pid) == match["pid"]
    assert {
        ("echo", "1", "rest", "ok"): 40,
        ("other", "3", "grpc", "ok"): 10,
        ("other", "3", "rest", "InvalidRequest"): 6,
    } == counted


def test_request_cut_off_at_shutdown_has_a_line(serve: Serve, tmp_path: Path) -> None:
    """A request that the end of the grace period refuses is in the log too."""
    server = serve(
        "--handlers=gated=fakes:Gated",
        "--grace_period_s=0.2",
        env={"GATE_DIR": str(tmp_path)},
    ).wait_until_ready()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            infer_rest, server, "gated", request(["held"], [1], "BYTES")
        )
        wait_for((tmp_path / "held.started").exists, "the call")
        server.process.terminate()
        assert 503 == asked.result().status
    (tmp_path / "held.open").touch()
    server.wait()
    assert ["ModelNotReady"] == [match["outcome"] for match in latency_lines(server)]


PROGRAM = """
import logging
from oip_host import AissembleOIPKServe
from fakes import Echo

{logging}
AissembleOIPKServe("m", Echo()).start_server()
"""


def program(directory: Path, logging: str) -> tuple[str, str]:
    """Return the command of a program that sets up its logging and starts a server."""
    path = directory / "program.py"
    path.write_text(PROGRAM.format(logging=logging))
    return sys.executable, str(path)


def logged(server: Server) -> list[str]:
    """Send two requests, stop the server and return their lines in the log."""
    server.wait_until_ready()
    assert [200, "OK"] == [reply.status for reply in infer_both(server, "m", ONE)]
    assert 0 == server.stop()
    return [line for line in server.log.splitlines() if "latency" in line]


def test_a_program_that_logs_itself_gets_records(serve: Serve, tmp_path: Path) -> None:
    """Each line is a record of `oip_host.latency`, in the program's own form."""
    setup = (
        'logging.basicConfig(format="<%(name)s|%(levelname)s|%(message)s>", level=20)'
    )
    lines = logged(serve(program=program(tmp_path, setup)))
    assert [
        f"<oip_host.latency|INFO|model=m version=1 protocol={protocol} outcome=ok"
        for protocol in ("rest", "grpc")
    ] == [line.partition(" queue_ms")[0] for line in lines]
    times = r" queue_ms=\S+ predict_ms=\d+\.\d{3} total_ms=\S+ \S+ request_id=\S+>$"
    assert all(re.search(times, line) for line in lines)


def test_the_latency_log_can_be_off(serve: Serve) -> None:
    """With `kserve_enable_latency_logging=false` there is no line."""
    off = {"KSERVE_ENABLE_LATENCY_LOGGING": "false"}
    assert [] == logged(serve("--handlers=m=fakes:Echo", env=off))


def test_the_latency_log_has_a_level(serve: Serve, tmp_path: Path) -> None:
    """A program can silence it like any other logger; the host's own log goes on."""
    setup = 'logging.getLogger("oip_host.latency").setLevel("WARNING")'
    server = serve(program=program(tmp_path, setup))
    assert [] == logged(server)
    assert "stopped" in server.log
