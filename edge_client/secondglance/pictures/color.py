"""Any picture that Pillow decodes to 8-bit RGB in sRGB, so that every edge shows the model the same colours.

Alpha is composited on white. An embedded colour profile is applied; a broken one is ignored, as viewers do.
Not covered: 32-bit float pictures (no white point is defined); other colour spaces without a profile.
"""

from __future__ import annotations

import io

from PIL import Image, ImageCms

from secondglance.errors import BadImageError

RESAMPLABLE = frozenset({"RGB", "RGBX", "L", "CMYK", "YCbCr"})
"""Modes whose pixels may be averaged before conversion; palette and 16-bit pictures are converted first."""

_SRGB = ImageCms.createProfile("sRGB")


def to_srgb(image: Image.Image, icc_profile: bytes | None = None) -> Image.Image:
    """RGB without any metadata. Raises BadImageError for float pictures."""
    if image.mode == "RGBX":  # four bytes a pixel, as Pillow stores RGB; the padding is dropped
        image = image.convert("RGB")
    if image.mode == "F":
        raise BadImageError("a 32-bit float picture has no defined white point; convert it to 8 bits")
    if image.mode.startswith("I"):
        image = _high_byte(image)
    if image.has_transparency_data:
        image = _on_white(image.convert("RGBA"))
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")
    image = _apply_profile(image, icc_profile) if icc_profile else image.convert("RGB")
    image.info = {}
    return image


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey (modes I;16..., I) to 8-bit: the high byte, as the PNG specification advises."""
    return image.convert("I").point(lambda value: value * (1 / 256) + 0).convert("L")


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _apply_profile(image: Image.Image, icc_profile: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return image.convert("RGB")  # a round trip through the colour engine would only add rounding
        converted = ImageCms.profileToProfile(image, profile, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB")
    return image.convert("RGB") if converted is None else converted
