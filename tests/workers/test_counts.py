"""The counts of several processes are reported like those of one."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Summary,
    generate_latest,
)

from oip_host.model_server import AissembleOIPKServe
from oip_host.models.registry import Registry
from oip_host.telemetry.statistics import Statistics, merge_statistics
from oip_host.workers import count_files, count_merge
from oip_host.workers.count_files import CountFiles
from oip_host.workers.identity import WorkerIdentity
from support.fakes import Echo

Events = list[tuple[int, str, float]]
"""In which process something happened, to what, and how much of it."""

events = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["a", "b", 'quote " and \\ and \n']),
        st.integers(0, 5000).map(lambda n: n / 512),
    )
)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Process:
    """A separate registry with one metric of each kind that counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.kinds: list[Any] = [
            kind(f"of_{kind.__name__.lower()}", "text", ["x"], registry=self.registry)
            for kind in (Counter, Histogram, Summary)
        ]

    def add(self, label: str, value: float) -> None:
        counter, *others = (kind.labels(label) for kind in self.kinds)
        counter.inc(value)
        for each in others:
            each.observe(value)

    def serialize(self) -> list[count_merge.Family]:
        # as read from a file
        return json.loads(  # type: ignore[no-any-return]
            json.dumps(count_merge.serialize_families(self.registry.collect()))
        )


def samples(families: list[count_merge.Family], created: bool = False) -> Samples:
    return {
        (name, tuple(sorted(labels.items()))): value
        for family in families
        for name, labels, value in family["samples"]
        if name.endswith("_created") == created
    }


@given(events, st.sets(st.integers(0, 2)))
def test_counts_of_several_are_those_of_one(events: Events, dead: set[int]) -> None:
    """Counters, histograms and summaries of all processes, also dead ones, add up."""
    processes = [Process() for _ in range(3)]
    one = Process()
    for index, label, value in events:
        processes[index].add(label, value)
        one.add(label, value)
    summed = count_merge.merge_families(
        [p.serialize() for n, p in enumerate(processes) if n not in dead],
        [processes[n].serialize() for n in sorted(dead)],
    )
    assert samples(one.serialize()) == samples(summed)
    created = samples(summed, created=True)
    for process in processes:
        for key, value in samples(process.serialize(), created=True).items():
            assert created[key] <= value
    given_out = generate_latest(count_merge.MergedMetrics(summed)).decode()
    assert given_out.count("# TYPE of_histogram histogram") == 1


def gauges(**values: float) -> list[count_merge.Family]:
    registry = CollectorRegistry()
    for name, value in values.items():
        Gauge(name, "text", registry=registry).set(value)
    Info("build", "text", registry=registry).info({"version": "1"})
    return count_merge.serialize_families(registry.collect())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("oip_model_ready", 0),
        ("oip_model_load_seconds", 1),
        ("process_start_time_seconds", 0),
        ("process_open_fds", 1),
        ("python_info", 1),
        ("of_a_handler", 1),
    ],
)
def test_gauges_have_their_rules(name: str, expected: float) -> None:
    """Each gauge merges two living processes by its own rule; dead ones are ignored."""
    of_all = count_merge.merge_families(
        [gauges(**{name: 0.0}), gauges(**{name: 1.0})], [gauges(**{name: 100.0})]
    )
    assert expected == samples(of_all)[name, ()]


def test_an_info_stays_one() -> None:
    """An info that is equal in all processes appears once, with the value 1."""
    found = samples(count_merge.merge_families([gauges(), gauges()], [gauges()]))
    assert {("build_info", (("version", "1"),)): 1.0} == found


def test_nan_and_infinity_survive_a_file() -> None:
    """NaN and infinities keep their values in a file."""
    families = json.loads(json.dumps(gauges(a=math.nan, b=math.inf)))
    found = samples(count_merge.merge_families([families]))
    assert math.isnan(found["a", ()])
    assert found["b", ()] == math.inf


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["ok", "Overloaded"]),
            st.integers(0, 5000).map(lambda n: n / 512),
            st.integers(1, 3),
            st.booleans(),
        )
    )
)
def test_statistics_of_several_are_those_of_one(added: list[Any]) -> None:
    """Merged statistics are those of all inferences, but for the last one's time."""
    parts = [Statistics() for _ in range(3)]
    one = Statistics()
    for index, outcome, seconds, size, leads in added:
        for statistics in (parts[index], one):
            statistics.add("rest", outcome, seconds, 2 * seconds, size, leads)
    first, *others = (part.document("m", "1") for part in parts)
    for other in others:
        first = merge_statistics(first, other)
    last = max(part.last_inference_s for part in parts)
    assert int(last * 1000) == first["last_inference"]
    expected = {**one.document("m", "1"), "last_inference": first["last_inference"]}
    assert expected == first


# -- files --------------------------------------------------------------------

GONE = 2**22 + 1
"""No process has this id: it is beyond the largest."""


class Worker:
    """A worker's files, written as by another process."""

    def __init__(self, directory: Path, index: int) -> None:
        self.model: Any = AissembleOIPKServe("m", Echo)
        identity = WorkerIdentity(
            index, 2, str(directory), os.getppid(), 1, 2, False, -1
        )
        self.files = CountFiles(identity, Registry([self.model]))
        if index == 0:  # a process that outlives the test
            self.files._own = directory / f"0-{os.getppid()}-1.json"

    async def count(self, number: int) -> None:
        for _ in range(number):
            self.model.statistics.add("rest", "ok", 0.5, 0.5)
        assert await self.files.write()

    async def counted(self) -> int:
        ((document,), _) = reversed(await self.files.read())
        return int(document["inference_count"])


def dies(worker: Worker) -> Path:
    """Rename a worker's file as if its process were dead."""
    own = worker.files._own
    return own.rename(own.with_name(own.name.replace(str(os.getpid()), str(GONE))))


async def test_dead_workers_are_counted_once(tmp_path: Path) -> None:
    """Dead workers count the same before and after each merge of their files."""
    living = Worker(tmp_path, 0)
    await living.count(1)
    for deaths in range(1, 4):
        other = Worker(tmp_path, 1)
        await other.count(10)
        file = dies(other)
        assert 1 + 10 * deaths == await living.counted()
        Worker(tmp_path, 1).files.merge_dead_workers()
        assert not file.exists()
        assert 1 + 10 * deaths == await living.counted()
    expected = {living.files._own.name, "dead.json", "counts.lock"}
    assert expected == {*os.listdir(tmp_path)}


async def test_interrupted_merge_counts_no_worker_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files left by an interrupted merge count once; the next merge removes them."""
    living, other = Worker(tmp_path, 0), Worker(tmp_path, 1)
    await living.count(1)
    await other.count(10)
    file = dies(other)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            Worker(tmp_path, 1).files.merge_dead_workers()
    assert file.exists()
    assert 11 == await living.counted()
    last = Worker(tmp_path, 1)
    await last.count(100)
    dies(last)
    Worker(tmp_path, 1).files.merge_dead_workers()
    assert not file.exists()
    assert 111 == await living.counted()


async def test_reused_process_id_keeps_earlier_counts(tmp_path: Path) -> None:
    """The counts of an earlier process with the same id are kept."""
    before = Worker(tmp_path, 1)
    await before.count(10)
    again = Worker(tmp_path, 1)
    again.files.merge_dead_workers()
    await again.count(1)
    assert 11 == await again.counted()


async def test_unchanged_counts_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unchanged counts leave the file as it is."""
    monkeypatch.setattr(count_files, "REGISTRY", CollectorRegistry())
    worker = Worker(tmp_path, 0)
    await worker.count(1)
    file = worker.files._own
    before = file.stat().st_ino
    await worker.count(0)
    assert before == file.stat().st_ino
    await worker.count(1)
    assert before != file.stat().st_ino


async def test_failed_write_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that cannot write its counts goes on and logs it."""
    worker = Worker(tmp_path / "nowhere", 0)
    assert not await worker.files.write()
    assert "could not write the metrics snapshot" in caplog.text
