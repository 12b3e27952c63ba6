"""Boxes between fractions of a picture and its pixels: exact one way, outward the other.

Pixels -> box -> pixels is the identity for every size up to `MAX_ORIGINAL_SIDE`. Box -> pixels covers the
box: it rounds outward, clamps to the picture and never comes out empty. Knows nothing of attention.
"""

from __future__ import annotations

import math

from secondglance_protocol.wire import Box, ImageSize, PixelBox, Roi

# Pixels. A fraction that came from a whole pixel lands within 1e-9 of it (float64, sides up to 1e6), so
# anything this close is that pixel and not the next one outward.
_SNAP = 1e-6


def pixels_to_box(pixels: PixelBox, size: ImageSize) -> Box:
    """The same region as fractions of `size`. Raises ValueError if it does not lie within."""
    if pixels.right > size.width or pixels.bottom > size.height:
        raise ValueError(f"{pixels} does not lie within {size.width}x{size.height}")
    return Box(
        x0=pixels.left / size.width,
        y0=pixels.top / size.height,
        x1=pixels.right / size.width,
        y1=pixels.bottom / size.height,
    )


def box_to_pixels(box: Box, size: ImageSize) -> PixelBox:
    """The smallest half-open pixel region of `size` that covers `box`; at least one pixel."""
    left, right = _cover(box.x0 * size.width, box.x1 * size.width, size.width)
    top, bottom = _cover(box.y0 * size.height, box.y1 * size.height, size.height)
    return PixelBox(left=left, top=top, right=right, bottom=bottom)


def cover_pixels(left: float, top: float, right: float, bottom: float, size: ImageSize) -> PixelBox:
    """The pixel region of `size` that covers an edge rectangle given in pixels, which may reach outside."""
    x0, x1 = _cover(left, right, size.width)
    y0, y1 = _cover(top, bottom, size.height)
    return PixelBox(left=x0, top=y0, right=x1, bottom=y1)


def roi_of(pixels: PixelBox, size: ImageSize) -> Roi:
    """The region in both spellings, which agree exactly."""
    return Roi(box=pixels_to_box(pixels, size), pixels=pixels)


def fit_within(
    size: ImageSize, *, max_width: int, max_height: int, max_pixels: int | None = None
) -> ImageSize:
    """The largest size of the same shape inside the budget: sides at least 1, never larger than `size`."""
    scale = min(1.0, max_width / size.width, max_height / size.height)
    if max_pixels is not None:
        scale = min(scale, math.sqrt(max_pixels / (size.width * size.height)))
    if scale == 1.0:
        return size
    # Rounding both sides up may exceed max_pixels by a row, so a pixel budget rounds down.
    snap = round if max_pixels is None else math.floor
    width = min(max(1, snap(size.width * scale)), max_width)
    height = min(max(1, snap(size.height * scale)), max_height)
    return ImageSize(width=width, height=height)


def has_shape_of(size: ImageSize, of: ImageSize) -> bool:
    """Whether `size` could be `of` scaled by one factor, each side rounded up or down to a whole pixel."""
    lowest = max((size.width - 1) / of.width, (size.height - 1) / of.height)
    highest = min((size.width + 1) / of.width, (size.height + 1) / of.height)
    return lowest <= highest


def _cover(start: float, end: float, length: int) -> tuple[int, int]:
    first = min(max(_floor(start), 0), length - 1)
    last = min(max(_ceil(end), first + 1), length)
    return first, last


def _floor(value: float) -> int:
    nearest = round(value)
    return nearest if abs(value - nearest) < _SNAP else math.floor(value)


def _ceil(value: float) -> int:
    nearest = round(value)
    return nearest if abs(value - nearest) < _SNAP else math.ceil(value)
