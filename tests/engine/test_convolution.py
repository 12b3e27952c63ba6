"""Folded convolutions compute what the trained layers do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from secondglance_server.engine.convolution import Convolution, ResidualBlock, fold_convolutions
from secondglance_server.engine.embedded.tower import Tower, TowerConfig
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.reader.tower import DenseNet


def _trained(net: nn.Module) -> nn.Module:
    """Return it with statistics and scales as training leaves them, none of them 0 or 1."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -1.0, 1.0), (module.running_var, 0.3, 3.0),
                (module.weight.data, -1.5, 1.5), (module.bias.data, -1.0, 1.0),
            ):  # fmt: skip
                assert values is not None
                values.uniform_(low, high)
    return net.eval()


@pytest.mark.parametrize("side", [16, 33])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "build",
    [
        lambda: Convolution(3, 8, 2),
        lambda: Convolution(3, 5, has_relu=False),
        lambda: nn.Sequential(Convolution(3, 6), ResidualBlock(6)),
        lambda: nn.ModuleList([DenseNet(8, 12)])[0],
    ],
    ids=["strided", "without relu", "residual", "the reader's"],
)
@torch.no_grad()
def test_a_folded_net_computes_the_same(build: type[nn.Module], batch: int, side: int) -> None:
    """Generated: random statistics, sizes that do and do not divide by the stride."""
    torch.manual_seed(side * batch)
    net = _trained(build())
    folded = copy.deepcopy(net)
    fold_convolutions(folded)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    fold_convolutions(folded)  # a second time changes nothing
    pixels = torch.randn(batch, 3, side, side)
    torch.testing.assert_close(folded(pixels), net(pixels), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_tower_computes_the_same_in_every_batch() -> None:
    torch.manual_seed(0)
    tower = _trained(Tower(TowerConfig()))
    folded = copy.deepcopy(tower)
    fold_convolutions(folded)
    views = torch.randn(3, 3, 224, 224)
    expected = tower(views).last_hidden_state
    torch.testing.assert_close(folded(views).last_hidden_state, expected, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(folded(views[1:2]).last_hidden_state, expected[1:2], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loader_folds_in_single_precision_only(dtype: str) -> None:
    """In half precision a folded kernel is rounded elsewhere than the trained one."""
    engine = load_engine("embedded", device="cpu", dtype=dtype)
    assert isinstance(engine, PrefixEngine)
    norms = [module for module in engine.adapter.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert bool(norms) == (dtype == "bfloat16")
    engine.close()
