"""Where placards stand: free of each other, some right under another, but only in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from scenes.fonts import Split, font_files
from training.reader.drawing import worlds
from training.reader.drawing.placards import Placard, line_quads
from training.reader.drawing.textures import Box
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


class Wall:
    """Grey levels side by side."""

    def __init__(self, *levels: int) -> None:
        self._image = Image.fromarray(np.array([levels], np.uint8)).convert("RGB")

    def paint(self, size: tuple[int, int], part: Box) -> Image.Image:
        box = tuple(v * self._image.size[i % 2] for i, v in enumerate(part))
        return self._image.resize(size, Image.Resampling.NEAREST, box)


def bare(ink: tuple[int, int, int]) -> Placard:
    placed = (p for picture in placards("test") for p in picture if p.color is None)
    return replace(next(placed), ink_rgb=ink)


@pytest.mark.parametrize("level", range(0, 256, 15))
def test_text_on_a_wall_always_differs_from_it(level: int) -> None:
    for ink in ((0, 0, 0), (250, 250, 250), (level, level, level), (200, 30, 30)):
        seen = worlds.visible(bare(ink), Wall(level), SIZE)
        assert seen is not None
        own, wall = (float(worlds._luminance(np.array(rgb))) for rgb in (seen.ink_rgb, (level,) * 3))
        assert (max(own, wall) + 0.05) / (min(own, wall) + 0.05) >= 2


def test_ink_that_can_be_seen_and_panels_stay_as_they_are() -> None:
    placard = bare((0, 0, 0))
    seen = worlds.visible(placard, Wall(200), SIZE)
    assert seen is not None
    assert seen.ink_rgb == placard.ink_rgb
    with_panel = replace(placard, color="red", panel_rgb=(200, 0, 0), ink_rgb=(200, 0, 0))
    assert worlds.visible(with_panel, Wall(0), SIZE) is with_panel


def test_text_on_a_wall_that_hides_every_ink_is_left_out() -> None:
    stripes = [0, 255] * 600  # finer than the text: half of it is lost in black, half in white
    assert worlds.visible(bare((128, 128, 128)), Wall(*[0, 128, 255] * 400), SIZE) is None
    assert worlds.visible(bare((0, 0, 0)), Wall(*stripes), SIZE) is None


def test_every_text_of_every_world_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walked: painted into its world, text without a panel differs from the wall that it stands on."""

    def photograph(rng: np.random.Generator, *_: object) -> Wall:
        return Wall(*np.sort(rng.integers(0, 256, 6)).tolist())

    monkeypatch.setattr(worlds, "PhotoBackground", photograph)
    bare_texts = 0
    for seed in range(40):
        world = worlds.make_world(seed, "test")
        for placard in (p for p in world.placards if p.color is None):
            bare_texts += 1
            part = tuple(
                np.clip(placard.box, 0, (world.width, world.height) * 2) / ((world.width, world.height) * 2)
            )
            wall = np.asarray(world.background.paint((90, 60), part))[..., 0] / 255
            ink = np.array(placard.ink_rgb) / 255
            linear = [((v + 0.055) / 1.055) ** 2.4 for v in (wall, ink)]
            own = float(linear[1] @ np.array((0.2126, 0.7152, 0.0722)))
            contrast = (np.maximum(own, linear[0]) + 0.05) / (np.minimum(own, linear[0]) + 0.05)
            assert (contrast > 1.9).mean() > 0.85
    assert bare_texts > 8
