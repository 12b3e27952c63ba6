"""The embedded model's tower: its shapes, and that transformers knows it without remote code."""

from __future__ import annotations

import pathlib

import torch
from transformers import AutoConfig, AutoModel

from secondglance_server.engine.embedded.tower import Tower, TowerConfig


def test_a_224_px_view_becomes_196_cells() -> None:
    torch.manual_seed(0)
    tower = Tower(TowerConfig()).eval()
    with torch.no_grad():
        cells, fine = tower.features(torch.zeros(2, 3, 224, 224))
        out = tower(torch.zeros(2, 3, 224, 224))
    assert cells.shape == (2, 196, 192)
    assert fine.shape == (2, 128, 28, 28)
    assert torch.equal(out.last_hidden_state, cells)
    assert torch.equal(out.hidden_states[-1], cells)


def test_cells_run_row_by_row_from_the_top_left() -> None:
    """A bright square changes the cells around it (without attention, which mixes all of them)."""
    torch.manual_seed(1)
    tower = Tower(TowerConfig(num_hidden_layers=0)).eval()
    places = torch.cartesian_prod(torch.arange(14.0), torch.arange(14.0))
    with torch.no_grad():
        plain, _ = tower.features(torch.zeros(1, 3, 224, 224))
        for row, col in ((0, 0), (0, 13), (13, 0), (13, 13), (6, 9)):
            view = torch.zeros(1, 3, 224, 224)
            view[..., 16 * row + 4 : 16 * row + 12, 16 * col + 4 : 16 * col + 12] = 1
            changed = (tower.features(view)[0] - plain)[0].square().sum(-1)
            middle = (changed.unsqueeze(1) * places).sum(0) / changed.sum()
            assert float((middle - torch.tensor([row, col])).abs().max()) < 1


def test_a_saved_tower_loads_through_the_auto_classes(tmp_path: pathlib.Path) -> None:
    torch.manual_seed(2)
    config = TowerConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, stem_channels=(4, 8, 8))
    tower = Tower(config).eval()
    tower.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), TowerConfig)
    loaded = AutoModel.from_pretrained(tmp_path, trust_remote_code=False).eval()
    assert isinstance(loaded, Tower)
    view = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(loaded(view).last_hidden_state, tower(view).last_hidden_state)
