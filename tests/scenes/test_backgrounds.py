"""Backgrounds: kinds that the splits do not share, drawn alike in every view."""

from __future__ import annotations

import numpy as np
import pytest

from scenes import backgrounds
from scenes.backgrounds import KINDS, Shape, make_background, paint_background
from scenes.fonts import Split

WHOLE = (0.0, 0.0, 1.0, 1.0)


def test_training_and_held_out_kinds_are_disjoint() -> None:
    assert set(KINDS["train"]) & set(KINDS["test"]) == set()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_draws_its_own_kinds_only_and_all_of_them(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = set()
    structure = backgrounds._structure

    def spy(rng: np.random.Generator, kind: str) -> list[Shape]:
        drawn.add(kind)
        return structure(rng, kind)

    monkeypatch.setattr(backgrounds, "_structure", spy)
    for seed in range(60):
        make_background(np.random.default_rng(seed), split)
    assert drawn == set(KINDS[split])


def test_a_background_is_its_seeds_alone() -> None:
    first, again, other = (
        np.asarray(paint_background(make_background(np.random.default_rng(s), "test"), (96, 64), WHOLE))
        for s in (4, 4, 5)
    )
    assert first.shape == (64, 96, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_clutter_is_muted() -> None:
    """A sign is told by its saturated colour; nothing in the background may compete with it."""
    shapes = [
        shape for seed in range(30) for shape in make_background(np.random.default_rng(seed), "test").shapes
    ]
    spread = [max(shape.rgb) - min(shape.rgb) for shape in shapes]
    assert len(spread) > 1000
    assert np.mean(np.array(spread) > 90) < 0.001
