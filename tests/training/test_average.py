"""Checkpoints are averaged part by part, by their shares, without the optimizer."""

from __future__ import annotations

import pathlib
import sys

import pytest
import torch
from torch import nn

from training.average import average, main
from training.journal import load_checkpoint, save_checkpoint
from training.muon import Optimizers


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))


def checkpoint(path: pathlib.Path, seed: int, *, name: str = "tower", step: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    module = network()
    save_checkpoint(path, step, {name: module}, Optimizers(module, rest=[], matrix_lr=0.1, lr=0.1))
    return module


def test_shares_count(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares 3 and 1 are 0.75 and 0.25; the step is the first's; the stage after it can load the mean."""
    first, second, mean = (tmp_path / name for name in ("a.pt", "b.pt", "mean.pt"))
    a, b = checkpoint(first, 1), checkpoint(second, 2, step=9)
    monkeypatch.setattr(sys, "argv", ["average", "--target", str(mean), f"{first}:3", str(second)])
    main()
    loaded = network()
    assert load_checkpoint(mean, {"tower": loaded}) == 7
    for got, one, other in zip(loaded.parameters(), a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(got, 0.75 * one + 0.25 * other)
    assert "optimizer" not in torch.load(mean, weights_only=True)


def test_one_checkpoint_is_its_own_mean(tmp_path: pathlib.Path) -> None:
    module = checkpoint(tmp_path / "a.pt", 3)
    average([(tmp_path / "a.pt", 0.4)], tmp_path / "mean.pt")
    loaded = torch.load(tmp_path / "mean.pt", weights_only=True)["tower"]
    for key, value in module.state_dict().items():
        torch.testing.assert_close(loaded[key], value)


def test_what_differs_is_refused(tmp_path: pathlib.Path) -> None:
    checkpoint(tmp_path / "a.pt", 1)
    checkpoint(tmp_path / "b.pt", 1, name="model")
    with pytest.raises(ValueError, match=r"b\.pt holds other parts: \['model', 'tower'\]"):
        average([(tmp_path / "a.pt", 1), (tmp_path / "b.pt", 1)], tmp_path / "mean.pt")
    with pytest.raises(ValueError, match="must be positive"):
        average([(tmp_path / "a.pt", 0)], tmp_path / "mean.pt")
    assert not (tmp_path / "mean.pt").exists()
