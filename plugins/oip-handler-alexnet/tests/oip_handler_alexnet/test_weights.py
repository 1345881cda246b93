"""The network and the sources of its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("oip_handler_alexnet", reason="the plugin is not installed")
pytest.importorskip("torch", reason="torch is not installed")

import torch

from oip_handler import ResponseOutput
from oip_handler_alexnet import AlexNetHandler, weights
from oip_handler_alexnet.classifier import find_device
from oip_handler_alexnet.network import AlexNet

Ask = Callable[..., dict[str, ResponseOutput]]
CPU = torch.device("cpu")
PUBLISHED = {
    "features.0.weight": [64, 3, 11, 11],
    "features.0.bias": [64],
    "features.3.weight": [192, 64, 5, 5],
    "features.3.bias": [192],
    "features.6.weight": [384, 192, 3, 3],
    "features.6.bias": [384],
    "features.8.weight": [256, 384, 3, 3],
    "features.8.bias": [256],
    "features.10.weight": [256, 256, 3, 3],
    "features.10.bias": [256],
    "classifier.1.weight": [4096, 9216],
    "classifier.1.bias": [4096],
    "classifier.4.weight": [4096, 4096],
    "classifier.4.bias": [4096],
    "classifier.6.weight": [1000, 4096],
    "classifier.6.bias": [1000],
}
"""The state dict that torchvision publishes as alexnet-owt-7be5be79.pth."""


@pytest.fixture(scope="module")
def small() -> Any:
    """A network of three classes with the random weights of seed 5."""
    return weights.draw(5, 3, CPU)


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_parameters_are_those_of_torchvision() -> None:
    """Names, shapes and the 61,100,840 numbers fit the file that it publishes."""
    with torch.device("meta"):
        state = AlexNet(1000).state_dict()
    assert PUBLISHED == {name: list(tensor.shape) for name, tensor in state.items()}
    assert 61_100_840 == sum(tensor.numel() for tensor in state.values())


def test_network_computes_alexnet(small: Any) -> None:
    """It equals five convolutions and three linear layers, written out here."""
    f = torch.nn.functional
    state = small.state_dict()
    x = images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    layers = [(0, 4, 2, True), (3, 1, 2, True), (6, 1, 1, False)]
    for i, stride, padding, pooled in [*layers, (8, 1, 1, False), (10, 1, 1, True)]:
        weight, bias = state[f"features.{i}.weight"], state[f"features.{i}.bias"]
        x = f.conv2d(x, weight, bias, stride=stride, padding=padding).relu()
        x = f.max_pool2d(x, 3, 2) if pooled else x
    x = x.flatten(1)
    assert (2, 256 * 6 * 6) == x.shape
    for i in (1, 4, 6):
        x = f.linear(x.relu(), state[f"classifier.{i}.weight"])
        x = x + state[f"classifier.{i}.bias"]
    np.testing.assert_allclose(x.numpy(), small(images).numpy(), rtol=1e-3, atol=1e-3)


def test_random_weights_are_the_same_in_every_process() -> None:
    """A seed gives the same numbers in every process, and another seed others."""
    program = (
        "import json, torch\n"
        "from oip_handler_alexnet import weights\n"
        "state = weights.draw(0, 3, torch.device('cpu')).state_dict()\n"
        "print(json.dumps([p.double().abs().sum().item() for p in state.values()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    here = [weights.draw(seed, 3, CPU).state_dict() for seed in (0, 1)]
    sums = [[p.double().abs().sum().item() for p in one.values()] for one in here]
    assert json.loads(done.stdout) == pytest.approx(sums[0], rel=1e-12)
    assert sums[0] != sums[1]
    first = here[0]["features.0.weight"].flatten()[:4].tolist()
    assert [-0.0010, 0.0690, -0.1058, -0.0946] == pytest.approx(first, abs=1e-4)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_saved_state_dict_gives_the_same_network(
    tmp_path: Path, small: Any, kind: str
) -> None:
    """The network computes in FP32, whatever float the file has."""
    dtype = getattr(torch, kind)
    state = {name: tensor.to(dtype) for name, tensor in small.state_dict().items()}
    network = weights.read(saved(state, tmp_path / "a.pth"), CPU)
    assert (3, False) == (network.classes, network.training)
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(state[name].float(), tensor)


class Payload:
    """An object whose pickle would run code when it is read."""

    def __reduce__(self) -> Any:
        return print, ("it ran",)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"features.0.bias": None}, "missing features.0.bias", id="less"),
        pytest.param({"fc.weight": torch.zeros(1)}, "unexpected fc.weight", id="more"),
        pytest.param(
            {"features.3.bias": torch.zeros(7)},
            r"features.3.bias is float32 \[7\], expected float32 \[192\]",
            id="shape",
        ),
        pytest.param(
            {"features.3.bias": torch.zeros(192, dtype=torch.int64)},
            r"features.3.bias is int64 \[192\], expected float32 \[192\]",
            id="integers",
        ),
        pytest.param(
            {"features.3.bias": "text"}, "features.3.bias is a str, expected", id="text"
        ),
        pytest.param(
            dict.fromkeys(PUBLISHED),
            "missing features.0.weight, .* and 11 more",
            id="none",
        ),
    ],
)
def test_unfit_state_dict_error_names_the_parameters(
    tmp_path: Path, small: Any, changed: dict[str, Any], said: str
) -> None:
    """The reason lists the parameters that differ, at most five of them."""
    state = {**small.state_dict(), **changed}
    state = {name: value for name, value in state.items() if value is not None}
    path = saved(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth does not fit AlexNet: {said}"):
        weights.read(path, CPU)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param([1, 2], "a.pth holds a list, expected a state dict", id="list"),
        pytest.param(Payload(), "a.pth cannot be read as a state dict", id="pickle"),
        pytest.param(b"rubbish", "a.pth cannot be read as a state dict", id="rubbish"),
    ],
)
def test_file_without_a_state_dict_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, said: str
) -> None:
    """No code in it is run, and torch's advice to run it is not passed on."""
    path = tmp_path / "a.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        saved(content, path)
    with pytest.raises(ValueError, match=said) as refusal:
        weights.read(path, CPU)
    assert "weights_only" not in str(refusal.value)
    assert "it ran" not in capsys.readouterr().out


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The reason for the failed load has the path in it."""
    settings = AlexNetHandler.Settings(weights=tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.pth"):
        AlexNetHandler(settings).model_load("m")


def test_directory_stands_for_its_one_file(tmp_path: Path, small: Any) -> None:
    """The one file of weights is loaded; a directory without one fails the load."""
    names = tmp_path / "labels.txt"
    names.write_text("cat\ndog\nbird\n")
    settings = AlexNetHandler.Settings(weights=tmp_path, labels=names, top=3)
    with pytest.raises(FileNotFoundError, match=r"ends in \.pth or \.pt"):
        AlexNetHandler(settings).model_load("m")
    saved(small.state_dict(), tmp_path / "a.pth")
    assert AlexNetHandler(settings).model_load("m")


def test_file_and_its_labels_are_served(
    tmp_path: Path, small: Any, ask: Ask, picture: Callable[..., bytes]
) -> None:
    """A network with other classes answers with their names."""
    names = tmp_path / "labels.txt"
    names.write_text("cat\ndog\nküken\n", encoding="utf-8")
    path = saved(small.state_dict(), tmp_path / "a.pth")
    settings = AlexNetHandler.Settings(weights=path, labels=names, top=3)
    handler = AlexNetHandler(settings)
    assert handler.model_load("m") is True
    answer = ask(handler, [picture()])
    found = answer["labels"].as_numpy()
    assert [b"cat", b"dog", "küken".encode()] == sorted(found[0])
    assert 1 == pytest.approx(answer["probabilities"].as_numpy().sum())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({}, "labels: found 1000, expected 3, as many as", id="no labels"),
        pytest.param({"labels": "cat\ndog"}, "labels: found 2, expected 3", id="few"),
        pytest.param({"labels": "a\nb\nc"}, "top: found 5, expected up to 3", id="top"),
    ],
)
def test_labels_and_top_must_fit_the_weights(
    tmp_path: Path, small: Any, settings: dict[str, Any], said: str
) -> None:
    """A class without a name fails the load, not a request."""
    if "labels" in settings:
        names = tmp_path / "labels.txt"
        names.write_text(settings["labels"])
        top = 2 if "top" not in said else 5
        settings = {"labels": names, "top": top}
    path = saved(small.state_dict(), tmp_path / "a.pth")
    handler = AlexNetHandler(AlexNetHandler.Settings(weights=path, **settings))
    with pytest.raises(ValueError, match=said):
        handler.model_load("m")
    assert not handler.model_ready("m").ready


def test_device_unknown_to_torch_fails_the_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model for a GPU is not served by the CPU instead."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert torch.device("cuda") == find_device("cuda")
    assert torch.device("cuda:0") == find_device("cuda:0")
    settings = AlexNetHandler.Settings(random_weights=0, device="cuda:1")
    with pytest.raises(RuntimeError, match=r"found 'cuda:1', but torch .* sees 1 CUDA"):
        AlexNetHandler(settings).model_load("m")


def test_threads_setting_reaches_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the setting torch's own number is unchanged."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(weights, "draw", lambda _, n, __: AlexNet(n))
    for threads in (3, None):
        settings = AlexNetHandler.Settings(random_weights=0, threads=threads)
        with torch.device("meta"):
            assert AlexNetHandler(settings).model_load("m") is True
    assert [3] == asked
