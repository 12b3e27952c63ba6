"""What our own vision towers are built of; `embedded.tower` and `reader.tower` use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Convolution(nn.Sequential):
    """3x3 convolution, batch norm, ReLU if wanted: [B, inputs, H, W] to [B, outputs, H / stride, ...]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, has_relu: bool = True) -> None:
        kernel = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        relu = [nn.ReLU(inplace=True)] if has_relu else []
        super().__init__(kernel, nn.BatchNorm2d(outputs), *relu)

    def fold(self) -> None:
        """Put the batch norm into the convolution, for good. Only what is in evaluation mode can."""
        kernel, norm = self[0], self[1]
        if isinstance(kernel, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            self[0] = fuse_conv_bn_eval(kernel, norm).requires_grad_(False)
            self[1] = nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Convolution(width, width)
        self.second = Convolution(width, width, has_relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, H, W]."""
        return torch.relu(x + self.second(self.first(x)))


def fold_convolutions(model: nn.Module) -> None:
    """Make a loaded model's `Convolution`s as fast as a processor can run them; nothing else is touched.

    Batch norms are folded in and kernels laid out with the channels last: the sums are the same, added up in
    another order. For float32 and evaluation only; such a model is neither trained nor saved.
    """
    for module in list(model.modules()):
        if isinstance(module, Convolution):
            module.fold()
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out
