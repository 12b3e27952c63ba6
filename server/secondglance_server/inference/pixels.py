"""Decoded uploads as RGB arrays in sRGB, laid on white, as the edge converts its originals.

An embedded colour profile is applied by what it does, never by its name; a broken one, or one for another
kind of pixels, is ignored. Works in strips: Pillow's conversions and numpy's reading of them each copy all
that they are given.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

RgbArray: TypeAlias = NDArray[np.uint8]  # [height, width, 3]
_Convert: TypeAlias = Callable[[Image.Image], Image.Image]

_STRIP_PIXELS = 65_536  # that are converted at a time: some 1.5 MB
_SRGB = ImageCms.createProfile("sRGB")
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # by a profile's kind of pixels
_ROUNDING = 2  # levels of 255 by which a transform may move a colour and still count as none
_LEVELS = (0, 8, 24, 48, 80, 112, 144, 176, 208, 232, 255)  # closer in the shadows, where curves differ most


def to_rgb(image: Image.Image, icc_profile: bytes | None) -> RgbArray:
    """Return the picture as uint8 [height, width, 3]. Raises ValueError for a palette without colours."""
    if image.mode in ("P", "PA") and image.palette is None:
        raise ValueError("a palette that comes after the pixels")
    convert = _converter(_color_mode(image), icc_profile)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for rows, strip in _strips(image):
        rgb[rows] = np.asarray(_on_white(strip, convert))
    return rgb


def matches(image: Image.Image, color: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return where the samples (modes 1, L, I;16 or RGB) are `color`, as bool [height, width]."""
    found = np.empty((image.height, image.width), np.bool_)
    for rows, strip in _strips(image):
        samples = np.asarray(strip.convert("L") if strip.mode == "1" else strip)
        found[rows] = (samples.reshape(*samples.shape[:2], -1) == color).all(axis=-1)
    return found


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    width, height = image.size
    n_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, n_rows):
        bottom = min(top + n_rows, height)
        yield slice(top, bottom), image.crop((0, top, width, bottom))


def _color_mode(image: Image.Image) -> str:
    """Return the mode of the colours once depth, palette and transparency are resolved."""
    if image.mode in ("L", "LA", "I;16"):
        return "L"
    return image.mode if image.mode in ("CMYK", "YCbCr") else "RGB"


def _on_white(strip: Image.Image, convert: _Convert) -> Image.Image:
    if strip.mode == "I;16":  # the high byte, as the PNG specification advises
        strip = Image.fromarray((np.asarray(strip) >> 8).astype(np.uint8))
    mode = _color_mode(strip)
    if not strip.has_transparency_data:
        return convert(strip.convert(mode))
    layer = strip.convert("LA" if mode == "L" else "RGBA")
    ground = Image.new("RGB", layer.size, "white")
    ground.paste(convert(layer.convert(mode)), mask=layer.getchannel("A"))
    return ground


def _converter(mode: str, icc_profile: bytes | None) -> _Convert:
    """Return what turns strips of `mode` into sRGB."""

    def plain(strip: Image.Image) -> Image.Image:
        return strip.convert("RGB")

    if not icc_profile:
        return plain
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        wanted = _MODES.get(profile.profile.xcolor_space)
        if wanted is None or (wanted != mode and not (wanted == "RGB" and mode in ("L", "YCbCr"))):
            return plain
        transform = ImageCms.buildTransform(profile, _SRGB, wanted, "RGB")
        if wanted != "CMYK" and _changes_nothing(transform, wanted):
            return plain  # a round trip through the colour engine would only add rounding
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return plain

    def apply(strip: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(strip.convert(wanted), transform)
        return plain(strip) if converted is None else converted

    return apply


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether colours all over the space come out as they went in: whether the profile is sRGB."""
    if mode == "L":
        probe = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        lattice = bytes(level for color in product(_LEVELS, repeat=3) for level in color)
        greys = bytes(level for level in range(256) for _ in range(3))
        probe = Image.frombytes("RGB", (len(lattice + greys) // 3, 1), lattice + greys)
    found = ImageCms.applyTransform(probe, transform)
    before = np.asarray(probe.convert("RGB")).astype(int)
    return found is not None and int(abs(before - np.asarray(found)).max()) <= _ROUNDING
