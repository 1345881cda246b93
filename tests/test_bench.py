"""The benchmark runs, refuses wrong answers, and reports its results."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

# the benchmark is a program beside the package and not part of it
sys.path.append(str(Path(__file__).parent.parent))

from bench import report
from bench.chart import draw
from bench.load import percentile
from bench.measure import tree
from bench.results import About, Load, Measured, Results, Start, read, save
from bench.sample import Figures, Sample
from bench.scaling import figures, table
from bench.summary import Figure, compare_rounds
from bench.tables import duration
from bench.thresholds import THRESHOLDS, compare, lines
from bench.ways import Request, Subject, Way

from oip_host.replicas.ray_head import MARK
from support.process import DEADLINE_S

ROOT = Path(__file__).parent.parent
ECHO = """
import sys
from bench.bodies import body_of, check
from bench.workloads import WORKLOADS

workload = WORKLOADS[sys.argv[1]]
answer = body_of(workload, "model").replace(b'"inputs"', b'"outputs"')
try:
    check(workload, answer)
except (ValueError, LookupError):
    print("refused")
"""
PAGE = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
RUN = [
    *(sys.executable, str(ROOT / "bench" / "run.py"), "--peers=none", "--rounds=1"),
    *("--workloads=rest-small,grpc-small", "--seconds=0.1"),
]


def measured(cpu_us: float, **more: Any) -> Measured:
    values = {"requests": 200, "seconds": 2.0, "p50_ms": 1.0, "p99_ms": 2.0}
    cores = {"generator_cores": 0.5, "other_cores": 0.0}
    return Measured(**{"cpu_us": cpu_us, **values, **cores, **more})


def results(**cpu_us: float | None) -> Results:
    """Return one round of one load with this CPU time per request of each server."""
    names = [name.replace("_", "-") for name in cpu_us]
    about = About(
        date="2025-01-31", cpu="a CPU", cores=2, memory_gb=8, python="3.11.0", rounds=1,
        seconds=2.0, packages={name: {"numpy": "2.0"} for name in names},
    )  # fmt: skip
    loads = [
        Load(
            round=1, server=name, workload="rest-small", clients=16,
            measured=None if cpu is None else measured(cpu),
        )
        for name, cpu in zip(names, cpu_us.values(), strict=True)
    ]  # fmt: skip
    starts = [Start(round=1, server=n, models=1, start_s=1, pss_mb=9) for n in names]
    return Results(about=about, starts=starts, loads=loads)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files of a run."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    return directory


@pytest.mark.slow
def test_short_run_measures_every_load_and_writes_the_page(
    tmp_path: Path, scratch: Path
) -> None:
    """Host and floor answer every request; only page and results are left."""
    page, kept = tmp_path / "page.md", tmp_path / "new" / "results.json"
    page.write_text(PAGE)
    done = subprocess.run(
        [*RUN, f"--envs={tmp_path}", f"--results={kept}", f"--page={page}"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = read(kept)
    assert [("floor", 1), ("oip-host", 1)] == [
        (s.server, s.models) for s in found.starts
    ]
    loads = [("rest-small", 1), ("rest-small", 16), ("grpc-small", 16)]
    assert [*loads, *loads] == [(one.workload, one.clients) for one in found.loads]
    for one in found.loads:
        assert one.measured is not None
        assert one.measured.requests >= one.clients
        assert one.measured.cpu_us > 0
    for start in found.starts:
        assert (start.start_s or 0) > 0
        assert (start.pss_mb or 0) > 1
    assert "| `rest-small`, 16 clients |" in page.read_text()
    assert "old" not in page.read_text()
    assert "rest-small, 16 clients" in page.with_suffix(".svg").read_text()
    for text in (kept.read_text(), page.read_text()):
        assert str(ROOT) not in text
        assert socket.gethostname() not in text
    assert [] == list(scratch.iterdir())


@pytest.mark.slow
def test_interrupted_run_stops_its_servers(tmp_path: Path, scratch: Path) -> None:
    """After SIGTERM no process, no temporary file and no partial result is left."""
    kept = tmp_path / "results.json"
    with subprocess.Popen(
        [*RUN, "--seconds=60", f"--envs={tmp_path}", f"--results={kept}"],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert "floor, 1 model: ready" in process.stdout.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=DEADLINE_S) == 1
    assert family
    assert [] == psutil.wait_procs(family, timeout=DEADLINE_S)[1]
    assert [] == list(scratch.iterdir())
    assert not kept.exists()


def test_page_is_rendered_again_without_a_run(tmp_path: Path) -> None:
    """The same records make the same page and the same chart, byte by byte."""
    kept, page = tmp_path / "results.json", tmp_path / "page.md"
    save(results(floor=100, oip_host=150), kept)
    page.write_text(PAGE)
    texts = set()
    for _ in range(2):
        report.render(read(kept), page)
        texts.add(page.read_text() + page.with_suffix(".svg").read_text())
    assert len(texts) == 1
    assert page.read_text().startswith(
        f"before\n{report.BEGIN}\n\nMeasured on 2025-01-31"
    )
    assert page.read_text().endswith(f"{report.END}\nafter\n")


def test_table_has_the_ratio_to_the_floor_or_a_reason() -> None:
    """A cell has ratio and time, or says that the server failed or is not installed."""
    found = results(floor=100, oip_host=150, kserve=None, mlserver=None)
    found.about.packages["mlserver"] = {}
    row = (
        "| `rest-small`, 16 clients | 100 µs | 1.50 (150 µs) | failed | not installed |"
    )
    assert row in report.text(found)
    assert found.failed


def test_table_says_what_a_server_cannot_do() -> None:
    """A workload that a server does not support is no failure, and has a reason."""
    found = results(floor=100, oip_host=150, mlserver=None)
    for load in found.loads:
        load.workload, load.clients = "bin-large", 4
    text = report.text(found)
    assert "| `bin-large`, 4 clients | 100 µs | 1.50 (150 µs) | n/a |" in text
    assert "- mlserver, `bin-large`: it does not know" in text


def test_chart_has_text_as_text_in_two_modes() -> None:
    """Names and ratios can be read and searched, in light and dark mode."""
    svg = draw(results(floor=100, oip_host=150, kserve=1000))
    for text in (">rest-small, 16 clients</text>", ">1.50</text>", ">kserve</text>"):
        assert text in svg
    assert "prefers-color-scheme: dark" in svg


@pytest.mark.parametrize(
    "name", ["rest-small", "bin-large", "grpc-small", "grpc-large-typed"]
)
def test_answer_is_decoded_and_compared(name: str) -> None:
    """The request, sent back, is not accepted as an answer in any form of a tensor."""
    # a separate process: the messages have the names of those that other tests use
    done = subprocess.run(
        [sys.executable, "-c", ECHO, name],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "refused\n"


@pytest.mark.parametrize(
    ("expected", "values", "base"),
    [
        pytest.param(None, {}, {1: 2.0}, id="not measured"),
        pytest.param(Figure(3.0), {1: 3.0}, {}, id="nothing beside it"),
        pytest.param(Figure(3.0, 1.5), {1: 3.0}, {1: 2.0}, id="one round"),
        pytest.param(
            Figure(4.0, 2.0, 1.0), {1: 2.0, 2: 9.0, 3: 4.0}, {1: 1.0, 2: 3.0, 3: 4.0},
            id="the median of the ratios, not the ratio of the medians",
        ),
        pytest.param(
            Figure(5.0, 2.0), {1: 4.0, 2: 6.0}, {1: 2.0}, id="rounds that both have"
        ),
    ],
)  # fmt: skip
def test_figure_compares_within_a_round(
    expected: Figure | None, values: dict[int, float], base: dict[int, float]
) -> None:
    """Values are divided round by round; median and spread are those of the ratios."""
    assert expected == compare_rounds(values, base)


@pytest.mark.parametrize(
    ("expected", "percent"),
    [
        pytest.param(1.0, 0.5, id="the least"),
        pytest.param(50.0, 50, id="the median"),
        pytest.param(99.0, 99, id="the one but last"),
        pytest.param(100.0, 99.5, id="the last"),
    ],
)
def test_percentile_is_one_of_the_times(expected: float, percent: float) -> None:
    """Nearest rank: each percentile is a measured number."""
    assert expected == percentile([float(n) for n in range(100, 0, -1)], percent)


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [
        pytest.param("0.50 µs", 5e-7, id="little"),
        pytest.param("71.2 µs", 71.23e-6, id="microseconds"),
        pytest.param("483 ms", 0.483, id="milliseconds"),
        pytest.param("3.83 s", 3.83, id="seconds"),
    ],
)
def test_duration_has_three_digits(expected: str, seconds: float) -> None:
    """Durations are in the unit that fits."""
    assert expected == duration(seconds)


# -- ways to serve a model ----------------------------------------------------

SUBJECT = Subject(
    "a model", (), (Way("one"), Way("two", ("--workers=2",))),
    lambda: Request(b"", b"", lambda answer: None),
)  # fmt: skip


def sample(rate: float) -> Sample:
    """Return a sample with this rate, 10 ms each, 500 MB, and ready after 2 s."""
    load = Figures(rate, 0.01, client_cores=0.1, other_cores=0.0)
    return Sample(2.0, 500.0, load)


def test_way_is_compared_with_the_first_of_its_round() -> None:
    """The ratio is the median of the rounds' ratios, and the first way has none."""
    samples = {
        "one": {1: sample(10), 2: sample(20), 3: sample(40)},
        "two": {1: sample(19), 2: sample(60), 3: sample(40)},
    }
    found = figures(SUBJECT, samples, lambda one: one.load.rate)
    assert Figure(20.0) == found["one"]
    assert (40.0, 1.9) == (found["two"].value, found["two"].ratio)


def test_table_has_a_row_for_each_way_with_its_options() -> None:
    """The rows have medians with their units, and ratios in brackets."""
    rows = table(SUBJECT, {"one": {1: sample(10)}, "two": {1: sample(19)}}).splitlines()
    assert [
        "| one | nothing | 10.0 | 10.0 ms | 500 MB | 2.00 s |",
        "| two | `--workers=2` | 19.0 (1.90) | 10.0 ms (1.00) | 500 MB (1.00) "
        "| 2.00 s (1.00) |",
    ] == rows[2:]


def test_processes_of_a_host_include_those_of_its_ray(tmp_path: Path) -> None:
    """Ray's processes that are not its children are found by their mark."""
    sleep = [sys.executable, "-c", "input()"]
    marks = [{MARK: str(tmp_path / name)} for name in ("ours", "ours", "theirs")]
    started = [subprocess.Popen(sleep, stdin=subprocess.PIPE, env=one) for one in marks]
    try:
        family = [process.pid for process in tree(started[0].pid)]
        assert [one.pid for one in started[:2]] == family
    finally:
        for process in started:
            process.communicate(b"\n")


@pytest.mark.parametrize("name", THRESHOLDS)
def test_both_ways_around_a_threshold_are_measured(name: str) -> None:
    """Each size has the time of both ways, and there are sizes on both sides."""
    threshold = THRESHOLDS[name]
    assert threshold.sizes[0] < threshold.value < threshold.sizes[-1]
    one = compare(threshold, threshold.sizes[-1], rounds=1)
    assert 0 < one.ratio == one.second_us / one.plain_us


def test_thresholds_are_shown_by_size() -> None:
    """A table has a line for each size, with a mark where the second way is used."""
    title, head, *rows = lines(1, ("gRPC, floats written",))
    assert title.startswith("gRPC, floats written: wire.FEW = ")
    assert head.split() == ["elements", "plain", "µs", "second", "µs", "ratio"]
    sizes = THRESHOLDS["gRPC, floats written"].sizes
    assert [str(size) for size in sizes] == [row.split()[0] for row in rows]
    assert not rows[0].endswith("<")
    assert rows[-1].endswith("<")
