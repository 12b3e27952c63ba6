"""What our own vision towers are built of; `embedded.tower` and `reader.tower` use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return 3x3 convolution, batch norm, ReLU: [B, inputs, H, W] to [B, outputs, H / stride, ...]."""
    kernel = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(kernel, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, H, W]."""
        return torch.relu(x + self.second(self.first(x)))
