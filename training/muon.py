"""Muon: momentum whose update is made orthogonal, for the matrices and convolution kernels of a network.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon). torch.optim.Muon takes plain matrices only; the tower
is mostly convolutions, whose kernels are flattened to [out, in * k * k] here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalize(matrix: Tensor, iterations: int = 5, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """About the nearest orthogonal matrix, by a quintic Newton-Schulz iteration (coefficients: source)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrix / (matrix.norm() + 1e-7)).to(dtype)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """`lr` is the spectral norm of a step, before the factor for tall matrices; weight decay is decoupled."""

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.flatten(1)
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(gradient)
                state["momentum"].lerp_(gradient, 1 - group["momentum"])
                update = orthogonalize(
                    gradient.lerp(state["momentum"], group["momentum"]), dtype=torch.bfloat16
                )
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)


class Optimizers:
    """Muon for a network's matrices and kernels; AdamW for vectors, embeddings, first layer and `rest`."""

    def __init__(self, network: nn.Module, *, rest: list[Tensor], matrix_lr: float, lr: float) -> None:
        matrices, others = [], list(rest)
        for name, parameter in network.named_parameters():
            is_matrix = (
                parameter.ndim > 1
                and parameter.shape[1] > 3
                and "embed" not in name
                and "positions" not in name
            )
            (matrices if is_matrix else others).append(parameter)
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=matrix_lr, weight_decay=0.1),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self._peaks = (matrix_lr, lr)

    def scale(self, share: float) -> None:
        """Sets both learning rates to that share of their peaks."""
        for part, peak in zip(self._parts, self._peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * share

    def zero_grad(self) -> None:
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(number): part.state_dict() for number, part in enumerate(self._parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, part in enumerate(self._parts):
            part.load_state_dict(state[str(number)])
