"""A sign: what is painted is what its description says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scenes.fonts import font_files
from scenes.signs import (
    CHARACTERS,
    COLORS,
    Sign,
    character_centers,
    make_sign,
    paint_sign,
    panel_colors,
    perspective,
)

GREY = (128, 128, 128)


def flat_sign(text: str, *, text_height: float, width: float, height: float) -> Sign:
    """Upright, without perspective, black on white, its top left corner at (20, 10)."""
    corners = ((20.0, 10.0), (20 + width, 10.0), (20 + width, 10 + height), (20.0, 10 + height))
    font = next(path for path in font_files("test") if path.stem == "Roboto-Bold")
    ink, panel = (0, 0, 0), (255, 255, 255)
    return Sign(text, "white", panel, ink, panel, font, width, height, text_height, 0.0, corners)


def ink_of(sign: Sign, scale: float) -> NDArray[np.bool_]:
    """Which pixels of a view are darker than its grey."""
    view = Image.new("RGB", (round(280 * scale), round(160 * scale)), GREY)
    paint_sign(view, sign, (0.0, 0.0), scale)
    return np.asarray(view)[..., 0] < 100


def extent(ink: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the ink."""
    rows, cols = np.nonzero(ink)
    return int(cols.min()), int(rows.min()), int(cols.max()) + 1, int(rows.max()) + 1


def test_nobody_has_to_tell_i_o_or_q_from_one_and_zero() -> None:
    assert set("IOQ") & set(CHARACTERS) == set()
    assert len(set(CHARACTERS)) == len(CHARACTERS) == 33


@pytest.mark.parametrize("text_height", [24.0, 40.0, 97.0])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_capitals_are_painted_as_high_as_the_sign_says(text_height: float, scale: float) -> None:
    sign = flat_sign("H7", text_height=text_height, width=220.0, height=130.0)
    _, top, _, bottom = extent(ink_of(sign, scale))
    assert abs(bottom - top - text_height * scale) <= 2


def test_text_stands_in_the_middle_of_the_panel() -> None:
    sign = flat_sign("H8", text_height=60.0, width=220.0, height=130.0)
    left, top, right, bottom = extent(ink_of(sign, 1.0))
    assert abs((left + right) / 2 - 130) <= 2
    assert abs((top + bottom) / 2 - 75) <= 2


def test_character_centers_lie_on_their_characters() -> None:
    sign = flat_sign("HHH", text_height=50.0, width=220.0, height=120.0)
    edges = np.flatnonzero(np.diff(ink_of(sign, 1.0).any(axis=0).astype(int))) + 1
    assert len(edges) == 6  # three letters with blank columns between them
    centers = character_centers(sign)
    assert [x for x, _ in centers] == pytest.approx((edges[::2] + edges[1::2]) / 2, abs=1.5)
    assert [y for _, y in centers] == pytest.approx([70.0] * 3, abs=0.5)


def test_character_centers_follow_the_tilt() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sign = make_sign(
            rng, text="A7K", color="red", font=font_files("test")[0], text_height=40.0, least_height=20.0
        )
        (x0, y0), _, (x1, y1) = character_centers(sign)
        top_left, top_right = sign.corners[:2]
        rise = (top_right[1] - top_left[1]) / (top_right[0] - top_left[0])
        low = (sign.corners[2][1] - sign.corners[3][1]) / (sign.corners[2][0] - sign.corners[3][0])
        assert (y1 - y0) / (x1 - x0) == pytest.approx((rise + low) / 2, abs=0.02)


def test_a_sign_is_tilted_by_ten_degrees_at_most_and_holds_its_text() -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sign = make_sign(
            rng,
            text="W8MH",
            color="blue",
            font=font_files("test")[seed % 19],
            text_height=30.0,
            least_height=30,
        )
        (x0, y0), (x1, y1) = (np.mean([sign.corners[i] for i in side], axis=0) for side in ((0, 3), (1, 2)))
        # 10 degrees of roll, plus what the perspective adds
        assert abs(math.degrees(math.atan2(y1 - y0, x1 - x0))) < 13
        assert sign.height >= 1.5 * sign.text_height
        assert all(-sign.width / 2 < x < sign.width / 2 for x, _ in character_centers(sign))


@pytest.mark.parametrize("color", COLORS)
def test_ink_contrasts_with_every_panel(color: str) -> None:
    for seed in range(200):
        panel, ink, rim = panel_colors(np.random.default_rng(seed), color)
        luma = [float(np.dot(rgb, (0.299, 0.587, 0.114))) for rgb in (panel, ink)]
        assert abs(luma[0] - luma[1]) > 60
        assert all(0 <= channel <= 255 for rgb in (panel, ink, rim) for channel in rgb)


def test_perspective_takes_the_targets_corners_to_the_sources() -> None:
    source = np.array([(0, 0), (30, 0), (30, 20), (0, 20)], dtype=np.float64)
    target = np.array([(3, 2), (41, 5), (39, 27), (1, 24)], dtype=np.float64)
    a, b, c, d, e, f, g, h = perspective(source, target)
    for (x, y), wanted in zip(target, source, strict=True):
        scale = g * x + h * y + 1
        assert ((a * x + b * y + c) / scale, (d * x + e * y + f) / scale) == pytest.approx(tuple(wanted))


def test_a_sign_outside_the_view_leaves_it_alone() -> None:
    view = Image.new("RGB", (50, 50), GREY)
    paint_sign(view, flat_sign("H", text_height=20.0, width=60.0, height=40.0), (500.0, 500.0), 1.0)
    assert view.getcolors() == [(2500, GREY)]
