"""Windows on grids become regions of originals: ViCrop's choice by hand, padding inverted, corners held."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenes.generator import shown_share
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.protocol import AttentionMap, LocalizationDefaults
from secondglance_server.inference.localization import locate, mass_window, relative_attention, vicrop_window

BARE = LocalizationDefaults(pad_cells=0.0)


def grid(rows: int, cols: int, *spots: tuple[int, int], block: int = 1) -> np.ndarray:
    weights = np.full((rows, cols), 0.01)
    for row, col in spots:
        weights[row : row + block, col : col + block] = 1.0
    return weights


def attention(
    weights: np.ndarray, content: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
) -> AttentionMap:
    return AttentionMap(weights.astype(np.float32), content)


def letterbox(width: int, height: int) -> tuple[float, float, float, float]:
    """Where a picture lies in a square that it is fitted into, centred."""
    side = max(width, height)
    x, y = (side - width) / 2 / side, (side - height) / 2 / side
    return (x, y, 1 - x, 1 - y)


def holds(box: PixelBox, x: float, y: float) -> bool:
    return box.left <= x <= box.right and box.top <= y <= box.bottom


def test_relative_attention_is_the_ratio_of_the_maps() -> None:
    ratio = relative_attention(
        attention(np.array([[2.0, 4.0], [1.0, 9.0]])), attention(np.array([[1.0, 2.0], [4.0, 3.0]]))
    )
    np.testing.assert_allclose(ratio.weights, [[2.0, 2.0], [0.25, 3.0]], rtol=1e-6)


def test_relative_attention_removes_what_every_prompt_looks_at() -> None:
    question, neutral = grid(8, 8, (2, 5)), np.full((8, 8), 0.01)
    question[0, 0] = neutral[0, 0] = 50.0  # a sink
    peak = np.unravel_index(
        relative_attention(attention(question), attention(neutral)).weights.argmax(), (8, 8)
    )
    assert peak == (2, 5)


def test_relative_attention_survives_cells_that_nothing_looks_at() -> None:
    for neutral in (np.zeros((4, 4)), grid(4, 4) * [[0], [1], [1], [1]]):
        assert np.isfinite(relative_attention(attention(grid(4, 4)), attention(neutral)).weights).all()


def test_maps_of_different_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="grids differ"):
        relative_attention(attention(grid(4, 4)), attention(grid(4, 5)))


def test_vicrop_takes_the_base_size_for_an_object_of_that_size() -> None:
    """A 2x2 block and cells of half the base: only the smallest window holds it and nothing else."""
    weights = grid(24, 24, (10, 4), block=2)
    window = vicrop_window(weights, cell_width=168, cell_height=168, base_side=336)
    assert (window.left, window.top, window.width, window.height) == (4, 10, 2, 2)


def test_vicrop_takes_a_larger_size_for_a_larger_object() -> None:
    weights = grid(24, 24, (10, 4), block=4)
    window = vicrop_window(weights, cell_width=168, cell_height=168, base_side=336)
    assert (window.left, window.top, window.width, window.height) == (4, 10, 4, 4)


def test_vicrop_stands_by_the_rule_worked_out_by_hand() -> None:
    """2x2 cells: best sum 10, neighbours 7, 3, 7, 3: (10 - 5) / 4 a cell. 3x3: 10 less neighbours of 10."""
    weights = np.zeros((5, 5))
    weights[1:3, 1:3] = [[5, 2], [2, 1]]
    window = vicrop_window(weights, cell_width=100, cell_height=100, base_side=200)
    assert (window.left, window.top, window.width, window.height) == (1, 1, 2, 2)


def test_a_small_picture_is_its_own_region() -> None:
    """A window that covers the grid means the whole image."""
    assert locate(attention(grid(24, 24, (3, 3))), ImageSize(width=300, height=200), BARE) == PixelBox(
        left=0, top=0, right=300, bottom=200
    )


def test_on_large_originals_windows_are_counted_in_cells() -> None:
    """A cell of 500 pixels is wider than half the base: the smallest window is 2x2 cells."""
    box = locate(attention(grid(24, 24, (12, 6), block=2)), ImageSize(width=12_000, height=12_000), BARE)
    assert box == PixelBox(left=3000, top=6000, right=4000, bottom=7000)


def test_a_large_original_never_gets_more_than_half_of_the_grid() -> None:
    box = locate(attention(grid(8, 8, (0, 0), block=8)), ImageSize(width=8000, height=8000), BARE)
    assert box.width <= 4000
    assert box.height <= 4000


@pytest.mark.parametrize("window", ["vicrop", "mass"])
@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (12_000, 500), (640, 480), (10_000, 10_000)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_padding_is_inverted_exactly_at_the_corners(
    window: str, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    """A bright cell drawn where the picture's corner lies in the padded square leads back to that corner."""
    original = ImageSize(width=size[0], height=size[1])
    content = letterbox(*size)
    x = corner[0] * (original.width - 1) + 0.5
    y = corner[1] * (original.height - 1) + 0.5
    u = content[0] + x / original.width * (content[2] - content[0])
    v = content[1] + y / original.height * (content[3] - content[1])
    weights = grid(24, 24, (int(v * 24), int(u * 24)))
    how = LocalizationDefaults(window=window, pad_cells=0.0)  # type: ignore[arg-type]
    assert holds(locate(attention(weights, content), original, how), x, y)


def test_attention_on_the_padding_is_not_looked_at() -> None:
    """A wide picture in a square: rows 0..5 and 18..23 hold nothing of it."""
    weights = grid(24, 24, (2, 2), (12, 20))
    weights[2, 2] = 100.0
    box = locate(attention(weights, letterbox(4000, 2000)), ImageSize(width=4000, height=2000), BARE)
    assert holds(box, 20.5 / 24 * 4000, (12.5 - 6) / 12 * 2000)


def test_windows_are_square_in_the_original_where_the_model_pads() -> None:
    box = locate(
        attention(grid(24, 24, (12, 12)), letterbox(4000, 2000)), ImageSize(width=4000, height=2000), BARE
    )
    assert abs(box.width - box.height) <= 1


def test_windows_counted_in_cells_stretch_with_a_squashed_picture() -> None:
    box = locate(attention(grid(24, 24, (12, 12), block=2)), ImageSize(width=24_000, height=12_000), BARE)
    assert (box.width, box.height) == (2000, 1000)


def test_padding_is_added_on_each_side_and_kept_inside() -> None:
    size = ImageSize(width=12_000, height=12_000)
    padded = LocalizationDefaults(pad_cells=0.5)
    middle = locate(attention(grid(24, 24, (12, 6), block=2)), size, padded)
    assert middle == PixelBox(left=2750, top=5750, right=4250, bottom=7250)
    corner = locate(attention(grid(24, 24, (0, 22), block=2)), size, padded)
    assert corner == PixelBox(left=10_500, top=0, right=12_000, bottom=1500)


def test_a_mass_window_has_the_size_and_place_of_a_uniform_block() -> None:
    window = mass_window(grid(24, 24, (8, 14), block=5), min_side_cells=1.0)
    np.testing.assert_allclose((window.left, window.top), (14, 8), atol=1.1)
    np.testing.assert_allclose(
        mass_window(grid(24, 24, (8, 14), block=3), min_side_cells=1.0).width, 3.0, atol=1e-6
    )


def test_a_mass_window_ignores_what_is_far_or_dim() -> None:
    weights = grid(24, 24, (5, 5), (20, 20))
    weights[5, 5] = 2.0
    weights[5, 7] = 0.2
    window = mass_window(weights, min_side_cells=1.0)
    assert (window.left, window.top, window.width) == (5, 5, 1)


def test_a_mass_window_is_no_smaller_than_told() -> None:
    window = mass_window(grid(24, 24, (5, 5)), min_side_cells=3.0)
    assert (window.left, window.top, window.width, window.height) == (4, 4, 3, 3)


@given(
    rows=st.integers(1, 30),
    cols=st.integers(1, 30),
    seed=st.integers(0, 1000),
    size=st.builds(ImageSize, width=st.integers(1, 20_000), height=st.integers(1, 20_000)),
    window=st.sampled_from(["vicrop", "mass"]),
    pads=st.booleans(),
)
def test_any_map_gives_a_region_within_the_original(
    rows: int, cols: int, seed: int, size: ImageSize, window: str, pads: bool
) -> None:
    weights = np.random.default_rng(seed).random((rows, cols)) * (seed > 0)
    content = letterbox(size.width, size.height) if pads else (0.0, 0.0, 1.0, 1.0)
    box = locate(attention(weights, content), size, LocalizationDefaults(window=window))  # type: ignore[arg-type]
    assert 0 <= box.left < box.right <= size.width
    assert 0 <= box.top < box.bottom <= size.height


UNIT = st.floats(0, 1)


def edges(box: PixelBox) -> np.ndarray:
    return np.array([box.left, box.top, box.right, box.bottom], dtype=float)


def is_within(inner: np.ndarray, outer: np.ndarray, tolerance: float = 1e-3) -> bool:
    return bool((inner[:2] >= outer[:2] - tolerance).all() and (inner[2:] <= outer[2:] + tolerance).all())


@given(
    seed=st.integers(0, 1000),
    size=st.builds(ImageSize, width=st.integers(1, 20_000), height=st.integers(1, 20_000)),
    window=st.sampled_from(["vicrop", "mass"]),
    pads=st.booleans(),
    texts=st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), max_size=8),
)
def test_a_region_cuts_no_text_of_which_it_holds_more_than_half(
    seed: int, size: ImageSize, window: str, pads: bool, texts: list[tuple[float, float, float, float]]
) -> None:
    """A part of a text reads like a text. It never holds less than without texts, nor more than it must."""
    content = letterbox(size.width, size.height) if pads else (0.0, 0.0, 1.0, 1.0)
    shown = attention(np.random.default_rng(seed).random((12, 12)), content)
    corner, extent = np.array(content[:2]), np.array(content[2:]) - content[:2]
    boxes = [
        np.array([min(a, c), min(b, d), max(a, c), max(b, d)])
        for a, b, c, d in texts
        if min(abs(a - c), abs(b - d)) > 1e-3  # narrower ones are lost in rounding
    ]
    found = tuple(tuple((box.reshape(2, 2) * extent + corner).ravel().tolist()) for box in boxes)
    how = LocalizationDefaults(window=window)  # type: ignore[arg-type]
    plain = edges(locate(shown, size, how))
    region = edges(locate(replace(shown, texts=found), size, how))
    most = plain.copy()
    for box in boxes:
        text = box * [size.width, size.height, size.width, size.height]
        share = shown_share(tuple(text), tuple(plain))
        assert share < 0.501 or is_within(text, region)
        if share > 0.499:
            around = (text[3] - text[1]) / 2
            most[:2] = np.minimum(most[:2], text[:2] - around)
            most[2:] = np.maximum(most[2:], text[2:] + around)
    assert is_within(plain, region)
    assert is_within(region, most, 1.0)
    assert is_within(region, np.array([0, 0, size.width, size.height]), 0.0)
    assert (region[2:] > region[:2]).all()


def test_a_cut_text_is_held_whole_with_half_its_height_around_it() -> None:
    """Worked out by hand: a window of 4 cells of 100 px; texts cut at each side, one mostly outside."""
    size = ImageSize(width=2400, height=2400)
    how = LocalizationDefaults(window="mass", min_side_cells=4.0, pad_cells=0.0)
    weights = grid(24, 24, (8, 4), block=4)
    assert locate(attention(weights), size, how) == PixelBox(left=400, top=800, right=800, bottom=1200)
    texts = np.array([
        [350, 1000, 750, 1100],
        [500, 700, 700, 950],
        [500, 900, 1000, 1000],
        [500, 1050, 700, 1250],
        [790, 1150, 1300, 1190],
    ])  # fmt: skip
    shown = replace(attention(weights), texts=tuple(map(tuple, texts / 2400)))
    assert locate(shown, size, how) == PixelBox(left=300, top=575, right=1050, bottom=1350)


def test_relative_attention_keeps_the_texts() -> None:
    shown = replace(attention(grid(4, 4)), texts=((0.1, 0.1, 0.2, 0.2),))
    assert relative_attention(shown, attention(grid(4, 4))).texts == shown.texts
