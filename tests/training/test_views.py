"""Labelled views: the labels say what the pixels show."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from scenes.generator import Scene, make_scene
from scenes.signs import CHARACTERS, COLORS, Sign, character_centers
from training.pictures.views import (
    CELLS,
    IGNORE,
    PADDING_GREY,
    SIDE,
    SLOTS,
    Labels,
    collage,
    crop_view,
    global_view,
    held_out_collage,
    held_out_crop,
    letterbox,
    product_window,
    window,
    write_shard,
)

CELL = SIDE / CELLS


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def slots_of(text: str) -> list[int]:
    return [CHARACTERS.index(c) + 1 for c in text] + [0] * (SLOTS - len(text))


def cell_of(x: float, y: float) -> tuple[int, int]:
    return int(y // CELL), int(x // CELL)


def center(sign: Sign) -> tuple[float, float]:
    """The mean of the corners, which is what the anchor marks."""
    return tuple(np.mean(sign.corners, axis=0))


def assert_labelled(labels: Labels, sign: Sign, cell: tuple[int, int]) -> None:
    assert labels.anchor[cell] == 1
    assert labels.color[cell] == COLORS.index(sign.color) + 1
    assert labels.slots[cell].tolist() == slots_of(sign.text)


@pytest.mark.parametrize("size", [(1200, 700), (700, 1200), (1000, 1000)])
def test_in_the_global_view_each_anchor_lies_in_its_signs_cell(size: tuple[int, int]) -> None:
    for seed in range(6):
        scene = make_scene(seed, split="test", size=size)
        _, labels = global_view(rng(seed), scene)
        scale = SIDE / max(size)
        left, top = ((SIDE - round(side * scale)) // 2 for side in size)
        cells = set()
        for sign in scene.signs:
            x, y = center(sign)
            cells.add(cell_of(left + x * scale, top + y * scale))
            assert_labelled(labels, sign, cell_of(left + x * scale, top + y * scale))
        assert {tuple(c) for c in np.argwhere(labels.anchor).tolist()} == cells


def test_what_is_labelled_as_a_sign_looks_like_it() -> None:
    """Pixels and labels agree: the cell's middle has the hue of the colour that the label names."""
    checked = 0
    for seed in range(8):
        scene = make_scene(seed, split="test", size=(1200, 900))
        image, labels = global_view(rng(seed), scene)
        pixels = np.asarray(image).astype(int)
        for row, col in np.argwhere(labels.color == COLORS.index("red") + 1):
            cell = pixels[int(row * CELL) : int((row + 1) * CELL), int(col * CELL) : int((col + 1) * CELL)]
            assert (cell[..., 0] - cell[..., 1:].max(-1)).max() > 40
            checked += 1
        letterboxed = pixels[: int((SIDE - SIDE * 0.75) / 2) - 1]
        assert np.abs(letterboxed - PADDING_GREY).max() == 0
    assert checked > 3


def test_a_cell_is_a_signs_if_its_middle_lies_in_the_panel() -> None:
    scene = make_scene(1, split="test", size=(1000, 1000))
    _, labels = global_view(rng(0), scene)
    scale = SIDE / 1000
    for sign in scene.signs:
        left, top, right, bottom = (v * scale for v in sign.box)
        inner = [
            (row, col)
            for row in range(CELLS)
            for col in range(CELLS)
            if left + 0.2 * (right - left) < (col + 0.5) * CELL < right - 0.2 * (right - left)
            and top + 0.2 * (bottom - top) < (row + 0.5) * CELL < bottom - 0.2 * (bottom - top)
        ]
        assert all(labels.color[cell] == COLORS.index(sign.color) + 1 for cell in inner)
    covered = sum((s.box[2] - s.box[0]) * (s.box[3] - s.box[1]) for s in scene.signs) * scale**2 / CELL**2
    assert int((labels.color > 0).sum()) <= covered + len(scene.signs)


def test_in_a_crop_the_target_is_labelled_where_it_is_seen() -> None:
    for seed in range(6):
        scene = make_scene(seed, split="test", size=(1600, 1100))
        sign = scene.signs[0]
        box = product_window(rng(seed), scene, sign, jitter_cells=0.1)
        image, labels = crop_view(rng(seed), scene, box)
        assert image.size == (SIDE, SIDE)
        scale = SIDE / max(box[2] - box[0], box[3] - box[1])
        left = (SIDE - (box[2] - box[0]) * scale) / 2
        top = (SIDE - (box[3] - box[1]) * scale) / 2
        x, y = center(sign)
        assert_labelled(labels, sign, cell_of(left + (x - box[0]) * scale, top + (y - box[1]) * scale))


def test_characters_are_marked_where_they_stand() -> None:
    scene = make_scene(4, split="test", size=(1000, 1000))
    sign = max(scene.signs, key=lambda s: s.text_height)
    box = window(scene, center(sign), 1.2 * max(sign.box[2] - sign.box[0], 8 * sign.text_height))
    _, labels = crop_view(rng(0), scene, box)
    scale = SIDE / (box[2] - box[0])
    assert 4.5 <= sign.text_height * scale <= 36
    for character, (x, y) in zip(sign.text, character_centers(sign), strict=True):
        row, col = int((y - box[1]) * scale // 8), int((x - box[0]) * scale // 4)
        assert labels.characters[row, col] == CHARACTERS.index(character) + 1
        around = labels.characters[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
        assert 0 not in around or sign.text_height * scale < 10
    assert set(np.unique(labels.characters)) <= {*range(len(CHARACTERS) + 1), IGNORE}


def test_a_collage_holds_many_labelled_signs() -> None:
    counts = []
    for seed in range(4):
        image, labels = collage(rng(seed), "test")
        assert image.size == (SIDE, SIDE)
        anchors = labels.anchor == 1
        assert (labels.color[anchors] > 0).all()
        assert (labels.slots[anchors][:, 0] > 0).all()
        counts.append(int(anchors.sum()))
    assert max(counts) > 15


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (333, 333), (30, 7)])
def test_letterboxing_keeps_the_aspect_and_centres(size: tuple[int, int]) -> None:
    canvas = np.asarray(letterbox(Image.new("RGB", size, (255, 0, 0))))
    assert canvas.shape == (SIDE, SIDE, 3)
    rows, cols = np.nonzero(canvas[..., 1] == 0)
    scale = SIDE / max(size)
    assert rows.max() + 1 - rows.min() == pytest.approx(size[1] * scale, abs=1)
    assert cols.max() + 1 - cols.min() == pytest.approx(size[0] * scale, abs=1)
    assert rows.min() + rows.max() + 1 == pytest.approx(SIDE, abs=1)
    assert cols.min() + cols.max() + 1 == pytest.approx(SIDE, abs=1)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(2, split="test", size=(1500, 1000))


@pytest.mark.parametrize("at", [(0.0, 0.0), (1500.0, 1000.0), (700.0, 400.0)])
@pytest.mark.parametrize("side", [100.4, 999.0, 1200.0, 5000.0])
def test_a_window_lies_inside_the_photo_in_whole_pixels(
    scene: Scene, at: tuple[float, float], side: float
) -> None:
    left, top, right, bottom = box = window(scene, at, side)
    assert all(value == int(value) for value in box)
    assert 0 <= left < right <= 1500
    assert 0 <= top < bottom <= 1000
    assert right - left == pytest.approx(min(side, 1500), abs=1)
    assert bottom - top == pytest.approx(min(side, 1000), abs=1)


def test_a_products_window_holds_the_sign(scene: Scene) -> None:
    for seed in range(50):
        sign = scene.signs[seed % len(scene.signs)]
        left, top, right, bottom = product_window(rng(seed), scene, sign, jitter_cells=0.0)
        assert left <= sign.box[0] + 1
        assert top <= sign.box[1] + 1
        assert right >= sign.box[2] - 1
        assert bottom >= sign.box[3] - 1


def test_held_out_views_are_the_same_every_time() -> None:
    for example in (held_out_collage, held_out_crop):
        (image, labels), (again, same) = example(3), example(3)
        assert image.tobytes() == again.tobytes()
        assert np.array_equal(labels.slots, same.slots)


def test_a_shard_holds_one_example_a_seed_and_is_whole_or_absent(tmp_path: pathlib.Path) -> None:
    def example(seed: int) -> tuple[Image.Image, Labels]:
        if seed == 9:
            raise RuntimeError("stopped")
        return held_out_collage(seed)

    write_shard(tmp_path / "000.npz", example, range(2, 4))
    with np.load(tmp_path / "000.npz") as shard:
        assert shard["images"].shape == (2, SIDE, SIDE, 3)
        assert shard["slots"].shape == (2, CELLS, CELLS, SLOTS)
        assert np.array_equal(shard["images"][1], np.asarray(held_out_collage(3)[0]))
    with pytest.raises(RuntimeError, match="stopped"):
        write_shard(tmp_path / "001.npz", example, range(8, 10))
    assert [path.name for path in tmp_path.iterdir()] == ["000.npz"]
