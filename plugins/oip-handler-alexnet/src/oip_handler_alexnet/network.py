"""AlexNet: the network, with the layers and parameter names of torchvision.

It is from "One weird trick for parallelizing convolutional neural networks"
(https://arxiv.org/abs/1404.5997), as in `torchvision.models.alexnet`.
"""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override

__all__ = ["AlexNet"]


class AlexNet(nn.Module):
    """A network from images [n, 3, 224, 224], normalised, to scores [n, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores; `softmax` turns them into probabilities."""
        pooled = self.avgpool(self.features(images))
        scores: torch.Tensor = self.classifier(torch.flatten(pooled, 1))
        return scores
