"""Image intake: bytes that a stranger sent become an RGB array, or a problem that says why not.

Content decides, not the label: JPEG, PNG and WebP by their first bytes, and only that one decoder is tried.
Pixels, sides and aspect are read from the header and refused before anything is decoded. Bytes after the
end of the image (motion photos, polyglots) are ignored, and so is a missing end as long as every pixel is
there: they are never interpreted, and nothing sent here is ever served back. Transparency is laid on white.
Not covered: colour profiles and orientation; the edge applies both, and an orientation that is not applied
is refused.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from secondglance_protocol.defaults import DEFAULT_LIMITS
from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import ImageSize
from secondglance_server.errors import ProblemError
from secondglance_server.inference.decoding_memory import DecodingMemory
from secondglance_server.inference.image_structure import structure_complaint
from secondglance_server.settings import ServerSettings

_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBP"),
)
_TURNED = frozenset(range(2, 9))  # EXIF orientations that change the picture; viewers read all others as 1
_STRIP_PIXELS = 65_536  # that are converted at a time: some 1.5 MB
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})

# What Pillow's decoders raise on broken files. Not MemoryError: the limits rule it out, so it would be ours.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AssertionError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one upload may hold, decoded. Sides in pixels; `max_aspect_ratio` is longer over shorter."""

    max_pixels: int
    min_side: int
    max_side: int
    max_aspect_ratio: float

    def complaint(self, width: int, height: int) -> ProblemError | None:
        """Why an image of this size is not taken, or None."""
        short, long = sorted((width, height))
        given = f"the image is {width}x{height}:"
        if width * height > self.max_pixels:
            return ProblemError(ErrorCode.IMAGE_TOO_LARGE, f"{given} at most {self.max_pixels} pixels")
        if long > self.max_side:
            return ProblemError(ErrorCode.IMAGE_TOO_LARGE, f"{given} sides of at most {self.max_side} pixels")
        if short < self.min_side:
            return ProblemError(
                ErrorCode.IMAGE_SHAPE_REFUSED, f"{given} sides of at least {self.min_side} pixels"
            )
        if long > self.max_aspect_ratio * short:
            return ProblemError(ErrorCode.IMAGE_SHAPE_REFUSED, f"{given} at most {self.max_aspect_ratio:g}:1")
        return None


def image_limits(settings: ServerSettings) -> ImageLimits:
    """Of the global image."""
    return ImageLimits(
        max_pixels=settings.max_image_pixels,
        min_side=DEFAULT_LIMITS.min_side_pixels,
        max_side=DEFAULT_LIMITS.max_side_pixels,
        max_aspect_ratio=DEFAULT_LIMITS.max_aspect_ratio,
    )


def patch_limits(settings: ServerSettings) -> ImageLimits:
    """Of the patch."""
    return replace(image_limits(settings), max_pixels=settings.max_patch_pixels)


def decode(
    data: bytes,
    limits: ImageLimits,
    check_size: Callable[[ImageSize], None] = lambda _: None,
    memory: DecodingMemory | None = None,
) -> NDArray[np.uint8]:
    """The picture as uint8 [height, width, 3].

    Raises ProblemError: UNSUPPORTED_MEDIA_TYPE, IMAGE_TOO_LARGE, UNORIENTED_IMAGE or UNREADABLE_IMAGE; and
    what `check_size` raises, which sees the size before decoding. Waits for room in `memory` and blocks for
    as long as decoding takes, so it is called off the event loop.
    """
    format_name = _sniff(data)
    if complaint := structure_complaint(format_name, data):
        raise ProblemError(ErrorCode.UNREADABLE_IMAGE, f"the {format_name} is not taken: {complaint}")
    try:
        with Image.open(io.BytesIO(data), formats=[format_name]) as image:
            _check_header(image, limits)
            size = ImageSize(width=image.width, height=image.height)
            check_size(size)
            _check_orientation(image)
            with memory.room_for(format_name, size) if memory else nullcontext():
                return _to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ProblemError(ErrorCode.IMAGE_TOO_LARGE, f"more than {limits.max_pixels} pixels") from exc
    except _BROKEN as exc:
        raise ProblemError(
            ErrorCode.UNREADABLE_IMAGE, f"the {format_name} data are broken or cut short"
        ) from exc


def _sniff(data: bytes) -> str:
    for name, offset, signature in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return name
    raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "the bytes are not those of a JPEG, PNG or WebP")


def _check_header(image: Image.Image, limits: ImageLimits) -> None:
    complaint = limits.complaint(image.width, image.height)
    if complaint:
        raise complaint
    # A JPEG with further pictures behind it (MPO: previews, gain maps) is its first picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) != 1:
        raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "animated images are not taken")
    if image.mode not in _MODES:
        raise ProblemError(ErrorCode.UNREADABLE_IMAGE, f"pixels of mode {image.mode} are not taken")


def _check_orientation(image: Image.Image) -> None:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in _TURNED:
        raise ProblemError(
            ErrorCode.UNORIENTED_IMAGE,
            f"EXIF orientation is {orientation}: turn the pixels before sending and leave the tag out",
        )


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """In strips: Pillow's conversions and numpy's reading of them each copy all that they are given."""
    image.load()
    if image.mode in ("P", "PA") and image.palette is None:
        raise ValueError("a palette that comes after the pixels")
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    n_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, n_rows):
        bottom = min(top + n_rows, height)
        rgb[top:bottom] = np.asarray(_on_white(image.crop((0, top, width, bottom))))
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")
