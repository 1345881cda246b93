"""The model directory: what a path in a handler's settings means below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from oip_host import ModelPath, model_file
from oip_host.config.handler_settings import build_settings, resolve_paths
from oip_host.config.model_dir import find_default_path
from oip_host.config.sources import Origin, Values
from oip_host.replicas.replica import Blueprint, RawSettings
from support.process import oip_host
from support.wheels import REQUIRED, Wheel

FRAUD = ("fraud", "1")


class Reads:
    """A handler with paths of every kind that is allowed."""

    class Settings(BaseModel):
        path: ModelPath
        labels: ModelPath | None = None
        shipped: ModelPath = Path("shipped.txt")
        log: Path = Path("log")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


def given(**settings: Any) -> Values:
    return {("settings", name): Origin(v, f"--{name}") for name, v in settings.items()}


def made(
    directory: Path | None, key: tuple[str, str] = FRAUD, **settings: Any
) -> tuple[Any, list[str], Values]:
    """The handler's settings, their faults, and the values that they are of."""
    where = None if directory is None else str(directory)
    values = resolve_paths(Reads, key, given(**settings), where)
    built, faults = build_settings(Reads, key, values, where)
    return built, faults, values


def test_a_relative_path_is_below_the_directory(tmp_path: Path) -> None:
    """A relative ModelPath is below the directory; an absolute one and a Path stay."""
    settings, faults, values = made(
        tmp_path, path="a/model.onnx", labels="/etc/labels", log="log"
    )
    assert faults == []
    assert settings.path == tmp_path / "a" / "model.onnx"
    assert settings.labels == Path("/etc/labels")
    assert settings.log == Path("log")
    assert values["settings", "path"] == Origin(f"{tmp_path}/a/model.onnx", "--path")


def test_without_a_directory_nothing_changes(tmp_path: Path) -> None:
    """A relative path is then of the working directory, and a missing one a fault."""
    settings, faults, _ = made(None, path="a/model.onnx")
    assert (settings.path, faults) == (Path("a/model.onnx"), [])
    _, faults, _ = made(None)
    assert faults == ["models.fraud.settings.path: required, but not set"]


def test_what_the_class_ships_stays(tmp_path: Path) -> None:
    """A default of the class itself is the author's, and not below the directory."""
    settings, _, _ = made(tmp_path, path="x")
    assert settings.shipped == Path("shipped.txt")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_required_path_is_that_of_the_model_by_default(
    tmp_path: Path, kind: str
) -> None:
    """`<model_dir>/<model name>`, with where it is from; optional ones stay unset."""
    place = tmp_path / "fraud"
    place.mkdir() if kind == "directory" else place.write_text("")
    settings, faults, values = made(tmp_path)
    assert faults == []
    assert (settings.path, settings.labels) == (place, None)
    assert values["settings", "path"] == Origin(str(place), "oip_model_dir")


def test_a_version_has_a_directory_of_its_own(tmp_path: Path) -> None:
    """`<name>/<version>` where it is there, otherwise `<name>`."""
    (tmp_path / "fraud" / "2").mkdir(parents=True)
    (tmp_path / "fraud" / "1").mkdir()
    assert made(tmp_path, ("fraud", "2"))[0].path == tmp_path / "fraud" / "2"
    assert made(tmp_path, ("fraud", "3"))[0].path == tmp_path / "fraud"
    assert made(tmp_path, ("fraud", "1"))[0].path == tmp_path / "fraud"


@pytest.mark.parametrize(
    ("key", "looked"),
    [(FRAUD, "'{0}/fraud'"), (("fraud", "2"), "'{0}/fraud/2' or '{0}/fraud'")],
    ids=["default version", "other version"],
)
def test_a_missing_path_says_where_it_was_looked_for(
    tmp_path: Path, key: tuple[str, str], looked: str
) -> None:
    """A required path that is nowhere is a fault that names the places."""
    _, (fault,), _ = made(tmp_path, key)
    assert fault.endswith(
        f"settings.path: required, but not set, and {looked.format(tmp_path)} "
        "does not exist"
    )


@pytest.mark.parametrize(
    ("name", "version"),
    [("../x", "1"), ("..", "1"), (".", "1"), ("/etc", "1"), ("a/../../x", "1"),
     ("", "1"), ("a\0", "1")],
)  # fmt: skip
def test_no_name_leads_out_of_the_directory(
    tmp_path: Path, name: str, version: str
) -> None:
    """A name that is no plain one has no default path."""
    (tmp_path / "x").mkdir()
    (tmp_path / "models").mkdir()
    assert find_default_path(tmp_path / "models", name, version) == (None, "")


@pytest.mark.parametrize("version", ["..", ".", "../../x", "/etc"])
def test_no_version_leads_out_of_its_model(tmp_path: Path, version: str) -> None:
    """A version that is no plain name leaves the model's own directory."""
    (tmp_path / "fraud").mkdir()
    found, _ = find_default_path(tmp_path, "fraud", version)
    assert found == tmp_path / "fraud"


def test_a_relative_directory_is_the_same_in_a_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are absolute: a replica works in another directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "fraud").mkdir(parents=True)
    settings, _, _ = made(Path("models"))
    assert settings.path == tmp_path / "models" / "fraud"


def test_a_replica_of_another_environment_looks_itself(tmp_path: Path) -> None:
    """Where only the replica knows the handler, it finds the paths there."""
    (tmp_path / "fraud").mkdir()
    target = f"{__name__}:Reads"
    apart = RawSettings(given(labels="names.txt"), str(tmp_path))
    handler = Blueprint("fraud", "1", Reads, target, settings=apart).make()
    assert handler.settings.path == tmp_path / "fraud"
    assert handler.settings.labels == tmp_path / "names.txt"


def test_check_shows_the_path_and_where_it_is_from(tmp_path: Path) -> None:
    """`check` shows the path in effect, by default and as it was given."""
    Wheel(modules={"wheeled": REQUIRED}).unpack(tmp_path / "plugins")
    (tmp_path / "models" / "a").mkdir(parents=True)
    done = oip_host(
        "check", "--json", f"--plugin_dir={tmp_path}/plugins",
        f"--model_dir={tmp_path}/models", "--handlers=a=wheeled,b=wheeled",
        "--models.b.settings.path=sub/file",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = {row["option"]: row for row in json.loads(done.stdout)["settings"]}
    assert shown["models.a.settings.path"] == {
        "option": "models.a.settings.path",
        "value": f"'{tmp_path}/models/a'",
        "source": "oip_model_dir",
    }
    assert shown["models.b.settings.path"] == {
        "option": "models.b.settings.path",
        "value": f"'{tmp_path}/models/sub/file'",
        "source": "--models.b.settings.path",
    }


def test_a_path_that_is_nowhere_stops_the_host(tmp_path: Path) -> None:
    """A model that was selected by name and has no path is a configuration fault."""
    Wheel(modules={"wheeled": REQUIRED}).unpack(tmp_path)
    done = oip_host("serve", "--handlers=a=wheeled", env={
        "OIP_PLUGIN_DIR": str(tmp_path), "OIP_MODEL_DIR": f"{tmp_path}/absent",
    })  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: models.a.settings.path: required, but not set, and "
        f"'{tmp_path}/absent/a' does not exist\n"
    )


# -- a directory for a file ---------------------------------------------------


def test_a_directory_stands_for_its_one_file(tmp_path: Path) -> None:
    """The one file with a known suffix, whatever lies beside it."""
    for name in ("model.ONNX", "README.md", ".hidden.onnx", "model.onnx.data"):
        (tmp_path / name).write_text("")
    (tmp_path / "directory.onnx").mkdir()
    assert model_file(tmp_path, (".onnx",)) == tmp_path / "model.ONNX"


def test_what_is_no_directory_stays(tmp_path: Path) -> None:
    """A file, or what is not there, is for its reader to judge."""
    assert model_file(tmp_path / "absent", (".onnx",)) == tmp_path / "absent"


def test_no_file_and_several_files_are_refused(tmp_path: Path) -> None:
    """The message names the directory, the suffixes, and what was found."""
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*ends in .pt or .pth"):
        model_file(tmp_path, (".pt", ".pth"))
    for name in ("b.pt", "a.pth"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"found 2 files .* \(a\.pth, b\.pt\)"):
        model_file(tmp_path, (".pt", ".pth"))
