"""A network with its weights: from the file of a state dict, or random ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from oip_handler_alexnet.network import AlexNet

__all__ = ["draw", "read"]

_LAST = "classifier.6.bias"
"""The parameter that has as many elements as there are classes."""
_IMAGENET_CLASSES = 1000


def read(path: Path, device: torch.device) -> AlexNet:
    """Read a network from the file of a state dict, in FP32 on the device.

    It has as many classes as the file's last layer. Raises FileNotFoundError if there
    is no such file, and ValueError, naming the parameters, if it cannot be read or does
    not fit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights: there is no file {path}")
    try:
        # never a pickle that could run code
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch's own texts are long, and advise otherwise
        raise ValueError(
            f"weights: {path} cannot be read as a state dict of tensors, "
            f"as torch.save writes it ({type(error).__name__})"
        ) from error
    return _fill(_make_network(_count_classes(state)), _check(state, path))


def draw(seed: int, classes: int, device: torch.device) -> AlexNet:
    """Make a network with random weights: one seed gives the same ones everywhere.

    They are uniform and keep the variance of what passes through (He), so that
    different images get different answers.
    """
    generator = torch.Generator().manual_seed(seed)
    network = _make_network(classes)
    state = {}
    for name, parameter in network.state_dict().items():
        values = torch.zeros(parameter.shape)
        if parameter.ndim > 1:
            bound = math.sqrt(6 / parameter[0].numel())
            values.uniform_(-bound, bound, generator=generator)
        state[name] = values.to(device)
    return _fill(network, state)


def _make_network(classes: int) -> AlexNet:
    """Make a network without memory for its parameters."""
    with torch.device("meta"):
        return AlexNet(classes)


def _fill(network: AlexNet, state: Mapping[str, torch.Tensor]) -> AlexNet:
    """Give a network these tensors, without copying them, and set it to answer."""
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def _count_classes(state: Any) -> int:
    """Return the number of classes of a state dict; ImageNet's if it does not show."""
    last = state.get(_LAST) if isinstance(state, Mapping) else None
    if isinstance(last, torch.Tensor) and last.ndim == 1:
        return len(last)
    return _IMAGENET_CLASSES


def _check(state: Any, path: Path) -> dict[str, torch.Tensor]:
    """Return the parameters as FP32; ValueError if they are not those of AlexNet."""
    if not isinstance(state, Mapping):
        raise ValueError(
            f"weights: {path} holds a {type(state).__name__}, expected a state dict"
        )
    expected = _make_network(_count_classes(state)).state_dict()
    faults = _find_faults(state, expected)
    if faults:
        raise ValueError(f"weights: {path} does not fit AlexNet: {'; '.join(faults)}")
    return {name: state[name].to(torch.float32) for name in expected}


def _find_faults(
    state: Mapping[Any, Any], expected: Mapping[str, torch.Tensor]
) -> list[str]:
    missing = [name for name in expected if name not in state]
    unexpected = [str(name) for name in state if name not in expected]
    misshapen = [
        f"{name} is {_describe(state[name])}, expected {_describe(tensor)}"
        for name, tensor in expected.items()
        if name in state and not _fits(state[name], tensor)
    ]
    by_kind = {"missing": missing, "unexpected": unexpected}
    faults = [f"{kind} {_shorten(names)}" for kind, names in by_kind.items() if names]
    return faults + misshapen


def _fits(value: Any, expected: torch.Tensor) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.shape == expected.shape
    )


def _describe(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _shorten(names: Sequence[str]) -> str:
    """Return names for an error text: the first five, and how many more there are."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
