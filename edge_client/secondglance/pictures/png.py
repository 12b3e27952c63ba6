"""PNG, decoded with nothing but the chunks that make its pixels, and with its transparent colour resolved.

Pillow compares a transparent colour with samples that it has already scaled to 8 bits; here it is compared
with the samples as stored. Not covered: of an animation everything but the still picture.
"""

from __future__ import annotations

from functools import reduce
from typing import IO

from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile

from secondglance.pictures.color import high_byte
from secondglance_protocol.png import GREY_ALPHA, PngParts, scaled_key
from secondglance_protocol.splicing import splice

_LOW_BYTES = "RGB;16L"  # unpacks the second byte of each 16-bit sample, which Pillow otherwise drops


def decode_png(file: IO[bytes], parts: PngParts) -> Image.Image:
    """Return the pixels; a transparent colour has become an alpha channel (modes LA, RGBA)."""
    image = _decode(file, parts)
    if parts.key is None:
        return image
    key = scaled_key(parts, image.mode)
    if len(key) == 1:
        return _keyed_grey(image, key[0])
    bands = list(zip(image.split(), key, strict=True))
    if parts.bit_depth == 16:
        low = _decode(file, parts, _LOW_BYTES)
        bands += zip(low.split(), (sample & 255 for sample in parts.key), strict=True)
    is_key = reduce(ImageChops.darker, (_where(band, level) for band, level in bands))
    image.putalpha(ImageChops.invert(is_key))
    return image


def _decode(file: IO[bytes], parts: PngParts, raw_mode: str | None = None) -> Image.Image:
    image = PngImageFile(splice(file, parts.pieces))
    if raw_mode is not None:
        image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    image.load()
    # Pillow reads grey of 16 bits with alpha as RGBA, which a grey profile would not fit.
    return image.convert("LA") if parts.color_type == GREY_ALPHA else image


def _where(band: Image.Image, level: int) -> Image.Image:
    """Return 255 where `band` is at `level`, 0 elsewhere."""
    return band.point([255 if value == level else 0 for value in range(256)])


def _keyed_grey(image: Image.Image, key: int) -> Image.Image:
    if image.mode.startswith("I"):
        alpha = image.convert("I").point([0 if value == key else 255 for value in range(65_536)], "L")
        return Image.merge("LA", (high_byte(image), alpha))
    grey = image.convert("L")
    return Image.merge("LA", (grey, ImageChops.invert(_where(grey, key))))
