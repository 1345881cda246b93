"""A network on its device, and its most probable classes for a batch of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from oip_handler_alexnet.network import AlexNet

__all__ = ["Classifier", "find_device"]


def find_device(name: str) -> torch.device:
    """Return the device `cpu`, `cuda` or `cuda:<n>`.

    Raises RuntimeError if this torch does not see it.
    """
    device = torch.device(name)
    if device.type == "cuda":
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= seen:
            raise RuntimeError(
                f"device: found '{name}', but torch {torch.__version__} sees {seen} "
                "CUDA devices: install a CUDA build of torch, or set it to cpu"
            )
    return device


class Classifier:
    """A network and the names of its classes."""

    def __init__(
        self, network: AlexNet, labels: list[str], device: torch.device
    ) -> None:
        """Take a network and its labels; ValueError unless one label for each class."""
        if network.classes != len(labels):
            raise ValueError(
                f"labels: found {len(labels)}, expected {network.classes}, as many as "
                "the weights have classes"
            )
        self._network, self._device = network, device
        self._labels = np.array([label.encode() for label in labels], object)

    def top(
        self, images: NDArray[np.float32], count: int
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return labels (bytes) and probabilities, both [n, count], highest first.

        `images` are [n, 3, 224, 224], normalised.
        """
        with torch.inference_mode():
            scores = self._network(torch.from_numpy(images).to(self._device))
            best = torch.softmax(scores, dim=1).topk(count)
            classes, probabilities = best.indices.cpu(), best.values.cpu()
        return self._labels[classes.numpy()], probabilities.numpy()
