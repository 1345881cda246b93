"""The package and its settings, which need neither torch nor Pillow."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

pytest.importorskip("oip_handler_alexnet", reason="the plugin is not installed")

from oip_handler import ModelNotReady
from oip_handler_alexnet import AlexNetHandler, labels


def test_package_import_imports_no_model_library() -> None:
    """torch and Pillow are imported by a load, never before."""
    code = (
        "import sys, oip_handler_alexnet; "
        "print(sorted({'torch', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "[]" == done.stdout.strip()


def test_host_finds_the_handler_as_alexnet() -> None:
    """The installed package offers the handler under its entry-point name."""
    (entry,) = entry_points(group="oip.handlers", name="alexnet")
    assert AlexNetHandler is entry.load()


def test_handler_is_idempotent() -> None:
    """An answer depends only on the request, and the class declares it."""
    assert AlexNetHandler.idempotent is True


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        pytest.param({}, "found neither of 'weights' and", id="no weights"),
        pytest.param(
            {"weights": "a.pth", "random_weights": 0}, "found both of", id="both"
        ),
        pytest.param({"random_weights": -1}, "random_weights", id="seed"),
        pytest.param({"random_weights": 0, "top": 0}, "top", id="top"),
        pytest.param({"random_weights": 0, "device": "gpu"}, "device", id="device"),
        pytest.param({"random_weights": 0, "threads": 0}, "threads", id="threads"),
        pytest.param({"random_weights": 0, "max_images": 0}, "max_images", id="images"),
        pytest.param(
            {"random_weights": 0, "max_pixels": 10**9}, "max_pixels", id="pixels"
        ),
        pytest.param({"random_weights": 0, "path": "a.pth"}, "path", id="unknown"),
    ],
)
def test_wrong_settings_are_found_before_loading(
    settings: dict[str, Any], wrong: str
) -> None:
    """The host can report the fault before it listens."""
    with pytest.raises(ValidationError, match=wrong):
        AlexNetHandler.Settings.model_validate(settings)


def test_unloaded_model_says_so() -> None:
    """Without a load the model is not ready, and metadata raise ModelNotReady."""
    handler = AlexNetHandler(AlexNetHandler.Settings(random_weights=0))
    assert not handler.model_ready("m").ready
    with pytest.raises(ModelNotReady, match="'m' is not loaded"):
        handler.model_metadata("m")


def test_labels_are_those_of_imagenet() -> None:
    """There are a thousand labels, in the order of torchvision's weights."""
    found = labels.read(None)
    assert 1000 == len(found) == len(set(found))
    expected = {0: "tench", 1: "goldfish", 258: "Samoyed", 999: "toilet tissue"}
    assert expected == {i: found[i] for i in expected}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"cat\ndog\n", ["cat", "dog"], id="lines"),
        pytest.param(b"cat\r\ndog", ["cat", "dog"], id="windows"),
        pytest.param("\ufeffküken\n".encode(), ["küken"], id="byte order mark"),
    ],
)
def test_labels_file_has_a_label_on_each_line(
    tmp_path: Path, content: bytes, expected: list[str]
) -> None:
    """The classes are the lines, in their order."""
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert expected == labels.read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"cat\n\ndog\n", r"line 2 of .*labels\.txt is empty", id="gap"),
        pytest.param(b"\xff\xfe", r"labels\.txt is not UTF-8", id="not text"),
    ],
)
def test_invalid_labels_file_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    """The reason names the file and what is wrong with it."""
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        labels.read(path)
