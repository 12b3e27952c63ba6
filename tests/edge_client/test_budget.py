"""Fitting sizes into a server's budget."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secondglance.pictures.budget import PixelBudget

sides = st.integers(1, 16_384)


@example(1, 2801, 14, 2801, None)  # 1:200 of 2801 rows is 15 columns, one more than fit
@given(sides, sides, st.integers(14, 4096), st.integers(14, 4096), st.none() | st.integers(1024, 10**7))
def test_a_fitted_size_is_accepted_and_never_enlarged(
    width: int, height: int, max_width: int, max_height: int, max_pixels: int | None
) -> None:
    """'Enlarged' leaves out thickening: what the server would refuse as hair-thin is given its least side."""
    budget = PixelBudget(max_width, max_height, max_pixels, min_side=2, max_aspect=200)
    fitted = budget.fit((width, height))
    thickened = max(2, -(-max(max_width, max_height) // 200))
    assert fitted[0] <= max_width
    assert fitted[1] <= max_height
    assert fitted[0] <= max(width, thickened)
    assert fitted[1] <= max(height, thickened)
    assert max_pixels is None or fitted[0] * fitted[1] <= max_pixels
    assert min(fitted) >= 2
    assert max(fitted) <= 200 * min(fitted)


@given(sides, sides)
def test_a_picture_within_the_budget_keeps_its_size(width: int, height: int) -> None:
    assert PixelBudget(16_384, 16_384).fit((width, height)) == (width, height)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((8000, 6000), (448, 336)),
        ((6000, 8000), (336, 448)),
        ((448, 448), (448, 448)),
        ((1, 1), (2, 2)),
        ((1, 4000), (3, 448)),
        ((4000, 1), (448, 3)),
        ((333, 517), (289, 448)),
    ],
)
def test_the_aspect_is_kept_to_the_pixel(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert PixelBudget(448, 448, min_side=2, max_aspect=200).fit(size) == fitted


def test_a_pixel_count_bounds_encoders_with_a_free_aspect() -> None:
    width, height = PixelBudget(8192, 8192, 1_000_000).fit((8000, 2000))
    assert width * height <= 1_000_000
    assert width / height == pytest.approx(4, rel=0.01)
