"""Any picture that Pillow decodes to 8-bit RGB in sRGB, so that every edge shows the model the same colours.

An embedded colour profile is applied by what it does, never by its name; a broken one, or one for another
kind of pixels, is ignored, as viewers do. Transparency is then laid on white.
Not covered: 32-bit float pictures (no white point is defined); other colour spaces without a profile.
"""

from __future__ import annotations

import io
from itertools import product

from PIL import Image, ImageCms

from secondglance.errors import BadImageError

RESAMPLABLE = frozenset({"RGB", "RGBX", "L", "CMYK", "YCbCr"})
"""Modes whose pixels may be averaged before conversion; palette and 16-bit pictures are converted first."""

_SRGB = ImageCms.createProfile("sRGB")
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}  # by a profile's kind of pixels
_ROUNDING = 2  # levels of 255 by which a transform may move a colour and still count as none
_LEVELS = (0, 8, 24, 48, 80, 112, 144, 176, 208, 232, 255)  # closer in the shadows, where curves differ most


def to_srgb(image: Image.Image, icc_profile: bytes | None = None) -> Image.Image:
    """Return RGB in sRGB without any metadata. Raises BadImageError for float pictures."""
    if image.mode == "F":
        raise BadImageError("a 32-bit float picture has no defined white point; convert it to 8 bits")
    if image.mode.startswith("I"):
        image = high_byte(image)
    alpha = None
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        image, alpha = _without_alpha(image)
    elif image.mode in ("P", "1", "RGBX"):  # of RGBX the fourth byte is padding
        image = image.convert("RGB")
    image = _apply_profile(image, icc_profile) if icc_profile else image.convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    image.info = {}
    return image


def high_byte(image: Image.Image, n_bits: int = 16, *, inverted: bool = False) -> Image.Image:
    """Return grey of up to 16 bits (modes I;16..., I) as L: the upper 8 of `n_bits`, as PNG advises.

    `inverted` is for pictures whose zero is white. What lies outside the range becomes black or white.
    """
    levels = [min(255, value >> (n_bits - 8)) for value in range(65_536)]
    table = [255 - level for level in levels] if inverted else levels
    return image.convert("I").point(table, "L")


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Return the colours (L where the picture is grey, so that a grey profile fits) and the alpha channel."""
    layer = image.convert("LA" if image.mode in ("L", "LA", "La") else "RGBA")
    return layer.convert(layer.mode.removesuffix("A")), layer.getchannel("A")


def _apply_profile(image: Image.Image, icc_profile: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        mode = _MODES.get(profile.profile.xcolor_space)
        if mode == "RGB" and image.mode in ("L", "YCbCr"):  # grey is R = G = B
            image = image.convert("RGB")
        if mode != image.mode:
            return image.convert("RGB")
        transform = ImageCms.buildTransform(profile, _SRGB, mode, "RGB")
        if mode in ("RGB", "L") and _changes_nothing(transform, mode):
            return image.convert("RGB")  # a round trip through the colour engine would only add rounding
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB")
    return image.convert("RGB") if converted is None else converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether colours all over the space come out as they went in: whether the profile is sRGB."""
    if mode == "L":
        probe = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        lattice = bytes(level for color in product(_LEVELS, repeat=3) for level in color)
        greys = bytes(level for level in range(256) for _ in range(3))
        probe = Image.frombytes("RGB", (len(lattice + greys) // 3, 1), lattice + greys)
    found = ImageCms.applyTransform(probe, transform)
    pairs = zip(probe.convert("RGB").tobytes(), found.tobytes() if found else b"", strict=True)
    return max(abs(before - after) for before, after in pairs) <= _ROUNDING
