"""Where the baselines cut: inside the picture, in the region's shape."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from secondglance_eval.asking.baseline_crops import centre_crop, oracle_crop, random_crop
from secondglance_eval.datasets.example import Example, ImageFile
from secondglance_protocol.geometry import has_shape_of
from secondglance_protocol.wire import ImageSize, PixelBox


def example(size: tuple[int, int], box: PixelBox | None = None, number: int = 0) -> Example:
    return Example(f"1/{number}", "1", "What?", ("a",), "read", ImageFile(Path("p.jpg")), *size, box)


@st.composite
def boxes(draw: st.DrawFn, size: tuple[int, int]) -> PixelBox:
    left, top = draw(st.integers(0, size[0] - 2)), draw(st.integers(0, size[1] - 2))
    right, bottom = draw(st.integers(left + 1, size[0])), draw(st.integers(top + 1, size[1]))
    return PixelBox(left=left, top=top, right=right, bottom=bottom)


@st.composite
def places(draw: st.DrawFn) -> tuple[Example, PixelBox]:
    size = draw(st.integers(10, 4000)), draw(st.integers(10, 4000))
    return example(size, draw(boxes(size)), draw(st.integers(0, 50))), draw(boxes(size))


@given(places())
def test_crops_lie_inside_and_have_the_regions_shape(place: tuple[Example, PixelBox]) -> None:
    asked, roi = place
    for cut in (random_crop, centre_crop, oracle_crop):
        crop = cut(roi, asked)
        assert crop.right <= asked.width
        assert crop.bottom <= asked.height
        size = ImageSize(width=crop.width, height=crop.height)
        assert has_shape_of(size, ImageSize(width=roi.width, height=roi.height))


@given(places())
def test_random_and_centre_crops_are_as_large_as_the_region(place: tuple[Example, PixelBox]) -> None:
    asked, roi = place
    for cut in (random_crop, centre_crop):
        crop = cut(roi, asked)
        assert (crop.width, crop.height) == (roi.width, roi.height)


def test_the_oracle_holds_the_object_and_its_borders() -> None:
    box = PixelBox(left=1000, top=1000, right=1400, bottom=1100)
    crop = oracle_crop(PixelBox(left=0, top=0, right=300, bottom=300), example((4000, 3000), box))
    assert crop.left < box.left
    assert crop.right > box.right
    assert crop.width == crop.height == 500


def test_the_oracle_is_as_large_as_the_region_where_that_suffices() -> None:
    box = PixelBox(left=1000, top=1000, right=1040, bottom=1020)
    crop = oracle_crop(PixelBox(left=0, top=0, right=300, bottom=300), example((4000, 3000), box))
    assert (crop.left, crop.top, crop.width, crop.height) == (870, 860, 300, 300)


def test_the_oracle_moves_inside_at_an_edge() -> None:
    box = PixelBox(left=0, top=2980, right=40, bottom=3000)
    crop = oracle_crop(PixelBox(left=0, top=0, right=300, bottom=300), example((4000, 3000), box))
    assert (crop.left, crop.bottom) == (0, 3000)


def test_a_random_crop_is_elsewhere_for_another_question_and_the_same_again() -> None:
    roi, size = PixelBox(left=0, top=0, right=300, bottom=300), (4000, 3000)
    crops = [random_crop(roi, example(size, number=number)) for number in range(20)]
    assert len({(crop.left, crop.top) for crop in crops}) == 20
    assert random_crop(roi, example(size, number=3)) == crops[3]


def test_the_centre_is_the_centre() -> None:
    crop = centre_crop(PixelBox(left=0, top=0, right=200, bottom=100), example((1000, 500)))
    assert (crop.left, crop.top, crop.right, crop.bottom) == (400, 200, 600, 300)
