"""EXIF orientation as geometry: where an upright box lies in the stored picture, and how to turn pixels.

Orientations are EXIF's 1-8; anything else counts as 1. Boxes are half-open pixels (left, top, right, bottom).
"""

from __future__ import annotations

from typing import TypeAlias

from PIL import Image

from secondglance_protocol.exif import exif_orientation

Box: TypeAlias = tuple[int, int, int, int]
Size: TypeAlias = tuple[int, int]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_TAG = 0x0112
_XMP = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")


def orientation_of(image: Image.Image) -> int:
    """Return what the EXIF of a Pillow image says: that of its file, or what a caller has set; never XMP."""
    if exif := image.info.get("exif"):
        return exif_orientation(exif)
    if any(name in image.info for name in _XMP):
        return 1
    try:
        value = image.getexif().get(_TAG, 1)
    except Exception:  # side data that cannot be read are ignored, whatever Pillow finds wrong with them
        return 1
    return value if value in range(1, 9) else 1


def swaps_sides(orientation: int) -> bool:
    """Whether the upright picture's width is the stored picture's height."""
    return orientation in (5, 6, 7, 8)


def upright_size(stored: Size, orientation: int) -> Size:
    """Size as a viewer shows it; its own inverse."""
    return (stored[1], stored[0]) if swaps_sides(orientation) else stored


def stored_box(box: Box, stored: Size, orientation: int) -> Box:
    """Map `box` of the upright picture into the picture as stored, whose size is `stored`."""
    left, top, right, bottom = box
    if swaps_sides(orientation):
        left, top, right, bottom = top, left, bottom, right
    width, height = stored
    if orientation in (2, 3, 7, 8):
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The pixels as a viewer shows them; the same object where nothing has to turn."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)
