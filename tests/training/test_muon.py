"""Muon: orthogonal updates for matrices and kernels, AdamW for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secondglance_server.engine.embedded.tower import Tower, TowerConfig
from training.muon import Muon, Optimizers, orthogonalize


@pytest.mark.parametrize("shape", [(48, 48), (32, 96), (96, 32), (192, 576)])
def test_singular_values_come_out_near_one(shape: tuple[int, int]) -> None:
    """The iteration's coefficients trade exactness for speed: 0.7 to 1.2 is what its source promises."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    spread = torch.linalg.svdvals(matrix)
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert spread.max() / spread.median() > 1.5  # it was not orthogonal before
    assert values.max() < 1.3
    # square Gaussian matrices have singular values next to zero, which five iterations do not lift
    assert values.quantile(0.1) > 0.6


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)], ids=str)
def test_directions_are_kept(dtype: torch.dtype, most: float) -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    between = u.T @ orthogonalize(matrix, dtype=dtype) @ vh.T
    assert (between - torch.diag(between.diagonal())).abs().max() < most


def test_a_step_moves_a_kernel_by_the_learning_rate_in_spectral_norm() -> None:
    kernel = nn.Parameter(torch.zeros(16, 8, 3, 3))
    kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(2))
    Muon([kernel], lr=0.1).step()
    norms = torch.linalg.svdvals(kernel.detach().flatten(1))
    assert 0.06 < norms.min() <= norms.max() < 0.13


def test_weights_decay_apart_from_the_gradient() -> None:
    weight = nn.Parameter(torch.full((4, 4), 2.0))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(weight, torch.full((4, 4), 2.0 * (1 - 0.1 * 0.5)))


def test_matrices_go_to_muon_and_vectors_positions_and_the_first_layer_to_adam() -> None:
    tower = Tower(TowerConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2))
    extra = nn.Parameter(torch.zeros(3))
    muon, adam = Optimizers(tower, rest=[extra], matrix_lr=0.1, lr=0.2)._parts
    matrices, others = ({id(p) for g in part.param_groups for p in g["params"]} for part in (muon, adam))
    names = {id(parameter): name for name, parameter in tower.named_parameters()}
    assert matrices | others == {*names, id(extra)}
    assert matrices & others == set()
    assert id(extra) in others
    by_adam = {names[i] for i in others if i in names}
    assert {"positions", "fine.0.0.weight", "norm.weight"} <= by_adam
    assert {names[i] for i in matrices} >= {"fine.1.0.weight", "blocks.0.qkv.weight"}


def test_scaling_sets_both_rates_from_their_own_peaks() -> None:
    optimizer = Optimizers(nn.Linear(4, 8), rest=[], matrix_lr=0.1, lr=0.002)
    optimizer.scale(0.5)
    optimizer.scale(0.25)
    rates = [group["lr"] for part in optimizer._parts for group in part.param_groups]
    assert rates == pytest.approx([0.025, 0.0005])
