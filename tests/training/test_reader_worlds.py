"""Where placards stand: free of each other, some right under another, but only in training."""

from __future__ import annotations

import numpy as np
import pytest

from scenes.fonts import Split, font_files
from training.reader.drawing import worlds
from training.reader.drawing.placards import Placard, line_quads
from training.reader.drawing.worlds import VIEW_SIDE_PX

SIZE = 1344, 1008
VIEW_PX = SIZE[0] / VIEW_SIDE_PX  # an edge of a view's pixel, in the original


@pytest.fixture(autouse=True)
def fonts(monkeypatch: pytest.MonkeyPatch, few_words: None) -> None:
    monkeypatch.setattr(worlds, "font_files", lambda split: font_files("test"))


def placards(split: Split, text_px: tuple[float, float] | None = None) -> list[tuple[Placard, ...]]:
    return [worlds._placards(np.random.default_rng(seed), SIZE, split, text_px) for seed in range(40)]


def gap(one: Placard, other: Placard) -> float:
    """Return how far apart two boxes are along the axis that separates them; negative where they overlap."""
    (a, b, c, d), (e, f, g, h) = one.box, other.box
    return max(a - g, e - c, b - h, f - d)


def gaps(split: Split) -> list[float]:
    return [
        gap(one, other)
        for placed in placards(split)
        for index, one in enumerate(placed)
        for other in placed[:index]
    ]


def test_placards_stand_free_of_each_other_and_in_the_picture() -> None:
    for split in ("train", "test"):
        for placed in placards(split):
            for left, top, right, bottom in (placard.box for placard in placed):
                assert min(left, top) >= 0
                assert right <= SIZE[0]
                assert bottom <= SIZE[1]
    assert min(gaps("train")) >= 0
    assert min(gaps("test")) >= 4.9 * VIEW_PX


def test_some_of_the_training_placards_stand_right_under_another() -> None:
    assert sum(value < 3.1 * VIEW_PX for value in gaps("train")) >= 5


def test_training_sees_longer_placards_than_are_measured() -> None:
    longest = {
        split: max(len(p.lines) for placed in placards(split) for p in placed) for split in ("train", "test")
    }
    assert longest["test"] == 3
    assert longest["train"] > 4


def test_the_first_lines_are_as_high_as_asked() -> None:
    heights = [
        (quad[:, 1].max() - quad[:, 1].min()) / VIEW_PX
        for placed in placards("test", (6.0, 8.0))
        for placard in placed
        for quad in line_quads(placard)[:1]
    ]
    assert 4 < np.median(heights) < 12


def test_a_small_original_has_no_text_below_its_own_pixels() -> None:
    placed = worlds._placards(np.random.default_rng(1), (900, 600), "test", (2.5, 4.0))
    assert placed
    assert min(quad[:, 1].max() - quad[:, 1].min() for p in placed for quad in line_quads(p)[:1]) > 8
