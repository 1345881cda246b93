"""The model directory: how paths in a handler's settings resolve below it."""

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
    """Return the settings of `Reads`, their faults and the values they come from."""
    where = None if directory is None else str(directory)
    values = resolve_paths(Reads, key, given(**settings), where)
    built, faults = build_settings(Reads, key, values, where)
    return built, faults, values


def test_relative_path_is_below_the_model_directory(tmp_path: Path) -> None:
    """A relative `ModelPath` is resolved below the directory.

    An absolute `ModelPath` and a plain `Path` stay as they are.
    """
    settings, faults, values = made(
        tmp_path, path="a/model.onnx", labels="/etc/labels", log="log"
    )
    assert faults == []
    assert settings.path == tmp_path / "a" / "model.onnx"
    assert settings.labels == Path("/etc/labels")
    assert settings.log == Path("log")
    assert values["settings", "path"] == Origin(f"{tmp_path}/a/model.onnx", "--path")


def test_paths_stay_unchanged_without_a_model_directory(tmp_path: Path) -> None:
    """Without a directory, relative paths stay and a missing path is a fault."""
    settings, faults, _ = made(None, path="a/model.onnx")
    assert (settings.path, faults) == (Path("a/model.onnx"), [])
    _, faults, _ = made(None)
    assert faults == ["models.fraud.settings.path: required, but not set"]


def test_default_of_the_class_stays(tmp_path: Path) -> None:
    """A default of the settings class is not resolved below the directory."""
    settings, _, _ = made(tmp_path, path="x")
    assert settings.shipped == Path("shipped.txt")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_required_path_defaults_to_model_name(tmp_path: Path, kind: str) -> None:
    """A required path defaults to `<model_dir>/<model name>`, with its source.

    Optional paths stay unset.
    """
    place = tmp_path / "fraud"
    place.mkdir() if kind == "directory" else place.write_text("")
    settings, faults, values = made(tmp_path)
    assert faults == []
    assert (settings.path, settings.labels) == (place, None)
    assert values["settings", "path"] == Origin(str(place), "oip_model_dir")


def test_version_has_its_own_directory(tmp_path: Path) -> None:
    """The default path is `<name>/<version>` if it exists, otherwise `<name>`."""
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
def test_missing_path_names_the_places_searched(
    tmp_path: Path, key: tuple[str, str], looked: str
) -> None:
    """A required path that is not found is a fault that names the places searched."""
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
def test_model_name_cannot_escape_the_directory(
    tmp_path: Path, name: str, version: str
) -> None:
    """A name that is not a plain file name has no default path."""
    (tmp_path / "x").mkdir()
    (tmp_path / "models").mkdir()
    assert find_default_path(tmp_path / "models", name, version) == (None, "")


@pytest.mark.parametrize("version", ["..", ".", "../../x", "/etc"])
def test_version_cannot_escape_the_model(tmp_path: Path, version: str) -> None:
    """A version that is not a plain file name falls back to the model's directory."""
    (tmp_path / "fraud").mkdir()
    found, _ = find_default_path(tmp_path, "fraud", version)
    assert found == tmp_path / "fraud"


def test_relative_model_directory_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are absolute because a replica has another working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "fraud").mkdir(parents=True)
    settings, _, _ = made(Path("models"))
    assert settings.path == tmp_path / "models" / "fraud"


def test_replica_of_another_environment_resolves_paths(tmp_path: Path) -> None:
    """A replica resolves the paths itself if only it can import the handler."""
    (tmp_path / "fraud").mkdir()
    target = f"{__name__}:Reads"
    apart = RawSettings(given(labels="names.txt"), str(tmp_path))
    handler = Blueprint("fraud", "1", Reads, target, settings=apart).make()
    assert handler.settings.path == tmp_path / "fraud"
    assert handler.settings.labels == tmp_path / "names.txt"


def test_check_shows_paths_and_their_sources(tmp_path: Path) -> None:
    """`check` shows the effective path and its source, both by default and when set."""
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


def test_missing_path_stops_the_host(tmp_path: Path) -> None:
    """A model selected by name whose path does not exist is a configuration fault."""
    Wheel(modules={"wheeled": REQUIRED}).unpack(tmp_path)
    done = oip_host("serve", "--handlers=a=wheeled", env={
        "OIP_PLUGIN_DIR": str(tmp_path), "OIP_MODEL_DIR": f"{tmp_path}/absent",
    })  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: models.a.settings.path: required, but not set, and "
        f"'{tmp_path}/absent/a' does not exist\n"
    )


# -- a directory in place of a file ---------------------------------------------


def test_directory_resolves_to_its_only_file(tmp_path: Path) -> None:
    """A directory resolves to its only file with a known suffix."""
    for name in ("model.ONNX", "README.md", ".hidden.onnx", "model.onnx.data"):
        (tmp_path / name).write_text("")
    (tmp_path / "directory.onnx").mkdir()
    assert model_file(tmp_path, (".onnx",)) == tmp_path / "model.ONNX"


def test_path_that_is_not_a_directory_stays(tmp_path: Path) -> None:
    """A path that is not a directory is returned unchanged, for its reader to judge."""
    assert model_file(tmp_path / "absent", (".onnx",)) == tmp_path / "absent"


def test_no_file_or_several_files_are_rejected(tmp_path: Path) -> None:
    """The error names the directory, the suffixes and the files found."""
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*ends in .pt or .pth"):
        model_file(tmp_path, (".pt", ".pth"))
    for name in ("b.pt", "a.pth"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"found 2 files .* \(a\.pth, b\.pt\)"):
        model_file(tmp_path, (".pt", ".pth"))
