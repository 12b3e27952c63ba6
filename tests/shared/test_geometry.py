"""Boxes: exact from pixels and back, outward from fractions, never empty, for any size of picture."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secondglance_protocol.geometry import (
    box_to_pixels,
    cover_pixels,
    fit_within,
    has_shape_of,
    pixels_to_box,
    roi_of,
)
from secondglance_protocol.protocol import MAX_ORIGINAL_SIDE
from secondglance_protocol.wire import Box, ImageSize, PixelBox

sides = st.one_of(st.integers(1, 12), st.integers(1, 20_000), st.just(MAX_ORIGINAL_SIDE))
sizes = st.builds(ImageSize, width=sides, height=sides)
fractions = st.floats(0, 1)


@st.composite
def regions(draw: st.DrawFn) -> tuple[ImageSize, PixelBox]:
    size = draw(sizes)
    left = draw(st.integers(0, size.width - 1))
    top = draw(st.integers(0, size.height - 1))
    right = draw(st.integers(left + 1, size.width))
    bottom = draw(st.integers(top + 1, size.height))
    return size, PixelBox(left=left, top=top, right=right, bottom=bottom)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, x1 = sorted(draw(st.tuples(fractions, fractions).filter(lambda p: p[0] != p[1])))
    y0, y1 = sorted(draw(st.tuples(fractions, fractions).filter(lambda p: p[0] != p[1])))
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


def whole(width: int, height: int) -> tuple[ImageSize, PixelBox]:
    return ImageSize(width=width, height=height), PixelBox(left=0, top=0, right=width, bottom=height)


@given(regions())
@example(whole(1, 1))
@example(whole(1, 4000))
@example(whole(4000, 1))
@example(whole(12_500, 8_000))
@example((ImageSize(width=333, height=517), PixelBox(left=7, top=29, right=49, bottom=58)))
def test_pixels_survive_the_way_to_a_box_and_back(region: tuple[ImageSize, PixelBox]) -> None:
    size, pixels = region
    assert box_to_pixels(pixels_to_box(pixels, size), size) == pixels


@given(regions())
def test_a_roi_survives_json(region: tuple[ImageSize, PixelBox]) -> None:
    size, pixels = region
    roi = roi_of(pixels, size)
    again = type(roi).model_validate_json(roi.model_dump_json())
    assert box_to_pixels(again.box, size) == again.pixels == pixels


@given(boxes(), sizes)
@example(Box(x0=0.3, y0=0.0, x1=0.3000001, y1=1.0), ImageSize(width=1, height=4000))
@example(Box(x0=0.5, y0=0.5, x1=0.5 + 1e-12, y1=1.0), ImageSize(width=2, height=2))
def test_pixels_of_a_box_cover_it_inside_the_picture(box: Box, size: ImageSize) -> None:
    pixels = box_to_pixels(box, size)
    assert 0 <= pixels.left < pixels.right <= size.width
    assert 0 <= pixels.top < pixels.bottom <= size.height
    assert pixels.left <= box.x0 * size.width + 1e-6
    assert pixels.top <= box.y0 * size.height + 1e-6
    assert pixels.right >= box.x1 * size.width - 1e-6
    assert pixels.bottom >= box.y1 * size.height - 1e-6


@given(boxes(), sizes)
def test_pixels_of_a_box_waste_less_than_a_pixel_on_each_side(box: Box, size: ImageSize) -> None:
    pixels = box_to_pixels(box, size)
    assert pixels.left > box.x0 * size.width - 1 - 1e-6 or pixels.left == 0
    assert pixels.right < max(box.x1 * size.width, pixels.left) + 1 + 1e-6


@given(
    st.floats(-1e5, 1e5),
    st.floats(-1e5, 1e5),
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    sizes,
)
def test_a_rectangle_outside_the_picture_is_clamped_to_pixels_of_it(
    left: float, top: float, width: float, height: float, size: ImageSize
) -> None:
    pixels = cover_pixels(left, top, left + width, top + height, size)
    assert 0 <= pixels.left < pixels.right <= size.width
    assert 0 <= pixels.top < pixels.bottom <= size.height


def test_pixels_outside_the_picture_have_no_box() -> None:
    with pytest.raises(ValueError, match="within 10x10"):
        pixels_to_box(PixelBox(left=0, top=0, right=11, bottom=10), ImageSize(width=10, height=10))


@given(sizes, st.integers(1, 5000), st.integers(1, 5000), st.none() | st.integers(100, 10_000_000))
def test_fitting_keeps_the_budget_and_never_enlarges(
    size: ImageSize, max_width: int, max_height: int, max_pixels: int | None
) -> None:
    fitted = fit_within(size, max_width=max_width, max_height=max_height, max_pixels=max_pixels)
    assert fitted.width <= min(max_width, size.width)
    assert fitted.height <= min(max_height, size.height)
    if max_pixels is not None and min(fitted.width, fitted.height) > 1:
        assert fitted.width * fitted.height <= max_pixels


@given(sizes, st.integers(1, 5000), st.integers(1, 5000), st.none() | st.integers(100, 10_000_000))
def test_a_fitted_size_has_the_shape_it_came_from(
    size: ImageSize, max_width: int, max_height: int, max_pixels: int | None
) -> None:
    assert has_shape_of(
        fit_within(size, max_width=max_width, max_height=max_height, max_pixels=max_pixels), size
    )


@pytest.mark.parametrize("other", [(400, 300), (300, 300), (290, 400), (30, 44)])
def test_another_shape_is_told_apart(other: tuple[int, int]) -> None:
    assert not has_shape_of(ImageSize(width=other[0], height=other[1]), ImageSize(width=3000, height=4000))
