"""The mapping between the picture as stored and as a viewer shows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from secondglance.pictures.orientation import stored_box, turn_upright, upright_size


@st.composite
def boxes(
    draw: st.DrawFn, sides: st.SearchStrategy[int]
) -> tuple[tuple[int, int], int, tuple[int, int, int, int]]:
    """A stored size, an orientation and a box inside the upright picture."""
    stored = (draw(sides), draw(sides))
    orientation = draw(st.integers(1, 8))
    width, height = upright_size(stored, orientation)
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return stored, orientation, (left, top, right, bottom)


@given(boxes(st.integers(1, 40)))
def test_cropping_stored_pixels_then_turning_equals_transposing_then_cropping(case) -> None:
    stored, orientation, box = case
    image = Image.new("I", stored)
    image.putdata(range(stored[0] * stored[1]))  # every pixel has its own value
    image.getexif()[0x0112] = orientation
    expected = ImageOps.exif_transpose(image).crop(box)
    found = turn_upright(image.crop(stored_box(box, stored, orientation)), orientation)
    assert found.size == expected.size
    assert found.tobytes() == expected.tobytes()


@given(boxes(st.integers(1, 12_000)))
def test_a_box_keeps_its_area_and_stays_inside_whatever_the_orientation(case) -> None:
    """Also at 100-megapixel sizes, where no pixels are made."""
    stored, orientation, box = case
    left, top, right, bottom = stored_box(box, stored, orientation)
    assert 0 <= left < right <= stored[0]
    assert 0 <= top < bottom <= stored[1]
    assert (right - left) * (bottom - top) == (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.parametrize("orientation", [0, 9, 42])
def test_an_orientation_that_exif_does_not_know_counts_as_upright(orientation: int) -> None:
    image = Image.new("L", (3, 2))
    assert turn_upright(image, orientation) is image
    assert stored_box((0, 0, 1, 1), (3, 2), orientation) == (0, 0, 1, 1)
    assert upright_size((3, 2), orientation) == (3, 2)
