"""Rendering into shards: once, whole, by kind."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from training.pictures import pairs, render, views


def test_a_kind_names_the_function_that_renders_it(tmp_path: pathlib.Path, held_out_fonts: None) -> None:
    assert render._render("held_out_collage", tmp_path / "0_collage.npz", range(1)) == "0_collage.npz"
    with np.load(tmp_path / "0_collage.npz") as shard:
        assert np.array_equal(shard["images"][0], np.asarray(views.held_out_collage(0)[0]))
    render._render("pairs", tmp_path / "000.npz", range(3, 4))
    with np.load(tmp_path / "000.npz") as shard:
        assert shard["images"].shape == (1, 3, views.SIDE, views.SIDE, 3)
        assert np.array_equal(shard["images"][0, 1], np.asarray(pairs.pair_example(3)[0][1][0]))


def test_what_is_there_already_is_kept(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is left, so no training font is needed either."""
    monkeypatch.setattr(render, "TOWER_SHARDS", 1)
    monkeypatch.setattr(render, "PAIR_SHARDS", 2)
    kept = [
        tmp_path / name
        for name in (
            "tower/000.npz",
            "pairs/000.npz",
            "pairs/001.npz",
            "tower_eval/0_collage.npz",
            "tower_eval/1_crop.npz",
            "tower_eval/2_global.npz",
        )
    ]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"kept")
    render.render_all(tmp_path)
    assert sorted(tmp_path.rglob("*.npz")) == sorted(kept)
    assert {path.read_bytes() for path in kept} == {b"kept"}
