"""Files that are reloaded when they change."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from oip_host.config import watched_file
from oip_host.config.watched_file import WatchedFile, refresh_all, watch_files
from oip_host.errors import ConfigurationError


def watched(*paths: Path) -> WatchedFile[str]:
    """Return a `WatchedFile` that loads the integers in the given files."""

    def load() -> str:
        return ",".join(str(int(path.read_text())) for path in paths)

    return WatchedFile(paths, load)


def write(path: Path, text: str) -> None:
    """Write a file in place, at a time that differs from the last one."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_change_is_read_once(tmp_path: Path) -> None:
    """A check reads the file again only if it has changed."""
    path = tmp_path / "f"
    write(path, "1")
    file = watched(path)
    assert not file.refresh()
    write(path, "2")
    assert file.refresh()
    assert not file.refresh()
    assert file.value == "2"


@pytest.mark.parametrize("by_link", [False, True], ids=["moved", "link"])
def test_replaced_file_counts_as_changed(tmp_path: Path, by_link: bool) -> None:
    """Moving another file into place, or switching a link, counts as a change."""
    path, other = tmp_path / "f", tmp_path / "other"
    (tmp_path / "first").write_text("1")
    other.write_text("2")
    path.symlink_to("first")
    file = watched(path)
    if by_link:
        link = tmp_path / "link"
        link.symlink_to(other)
        link.rename(path)
    else:
        other.rename(path)
    assert file.refresh()
    assert file.value == "2"


@pytest.mark.parametrize("text", ["", "x", None], ids=["empty", "wrong", "gone"])
def test_fault_keeps_value_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    """A file that fails to load keeps its value; a good file later is loaded.

    The fault is logged once, at the second check.
    """
    path = tmp_path / "f"
    write(path, "1")
    file = watched(path)
    if text is None:
        path.unlink()
    else:
        write(path, text)
    lines = []
    for _ in range(4):
        assert not file.refresh()
        lines.append(len(caplog.messages))
    assert lines == [0, 1, 1, 1]
    expected = f"could not load the renewed {path}, still using the previous contents: "
    assert caplog.messages[0].startswith(expected)
    assert file.value == "1"
    write(path, "30")
    assert file.refresh()
    assert file.value == "30"


def test_files_written_one_by_one_are_not_a_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that are inconsistent at one check and fine at the next are not logged."""
    paths = tmp_path / "a", tmp_path / "b"
    for path in paths:
        write(path, "1")
    file = watched(*paths)
    write(paths[0], "x")
    assert not file.refresh()
    write(paths[0], "2")
    write(paths[1], "2")
    assert file.refresh()
    assert (file.value, caplog.messages) == ("2,2", [])


def test_each_fault_has_its_own_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Several faults in one file are logged one per line, under the given names."""
    path = tmp_path / "f"
    write(path, "1")

    def load() -> str:
        if path.read_text() != "1":
            raise ConfigurationError(["first", "second"])
        return "value"

    file = WatchedFile([path], load, "TLS files", "certificate")
    write(path, "2")
    for _ in range(2):
        refresh_all([file])
    start = "could not load the renewed TLS files, still using the previous certificate"
    assert caplog.messages == [f"{start}: first", f"{start}: second"]


async def test_watch_survives_unexpected_exception(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is logged, and the watch continues."""
    monkeypatch.setattr(watched_file, "CHECK_EVERY_S", 0.01)
    write(tmp_path / "f", "1")
    checks: list[bool] = []
    second = asyncio.Event()

    def react(is_renewed: bool) -> None:
        checks.append(is_renewed)
        if len(checks) == 1:
            raise RuntimeError("unforeseen")
        second.set()

    task = asyncio.create_task(watch_files([watched(tmp_path / "f")], react))
    await asyncio.wait_for(second.wait(), 10)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert caplog.messages == ["could not check the watched files for changes"]
    assert checks[:2] == [False, False]
