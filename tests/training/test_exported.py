"""A shipped model read back: its parts, and its tower in a larger one."""

from __future__ import annotations

import pathlib

import pytest
import torch
from safetensors.torch import save_file

from secondglance_server.engine.embedded.tower import Tower, TowerConfig
from secondglance_server.engine.loader import EMBEDDED_WEIGHTS
from training.exported import exported_parts, load_tower


def test_the_shipped_directory_gives_all_parts_in_float32() -> None:
    parts = exported_parts(EMBEDDED_WEIGHTS)
    assert set(parts) == {"tower", "projector", "decoder"}
    assert all(v.dtype == torch.float32 for v in parts["decoder"].values())
    assert parts["decoder"]["lm_head.weight"] is parts["decoder"]["model.embed_tokens.weight"]


def test_a_part_without_weights_is_refused(tmp_path: pathlib.Path) -> None:
    save_file({"vision_tower.norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="multi_modal_projector"):
        exported_parts(tmp_path)


def test_a_larger_tower_starts_as_the_smaller_one() -> None:
    """New blocks are identities, so that training goes on where the smaller tower stood."""
    torch.manual_seed(0)
    small = Tower(TowerConfig(num_hidden_layers=1, residual_blocks=1)).eval()
    large = Tower(TowerConfig(num_hidden_layers=2, residual_blocks=3)).eval()
    load_tower(large, small.state_dict())
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(large(pixels)[0], small(pixels)[0], rtol=1e-5, atol=1e-5)


def test_weights_of_a_larger_tower_are_refused() -> None:
    small = Tower(TowerConfig(num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"blocks\.1"):
        load_tower(small, Tower(TowerConfig(num_hidden_layers=2)).state_dict())


def test_weights_that_lack_more_than_blocks_are_refused() -> None:
    weights = {
        name: value for name, value in Tower(TowerConfig()).state_dict().items() if name != "positions"
    }
    with pytest.raises(ValueError, match="positions"):
        load_tower(Tower(TowerConfig()), weights)
