"""Image intake: bytes that a stranger sent become an RGB array, or a problem that says why not.

Content decides, not the label: JPEG, PNG and WebP by their first bytes, and only that one decoder is tried.
Pixels, sides and aspect are read from the header and refused before anything is decoded, and nothing is
allocated for pixels before there is room. Bytes after the end of the image (motion photos, polyglots) are
ignored, and so is a missing end as long as every pixel is there: they are never interpreted, and nothing sent
here is ever served back. Side data that cannot be read are ignored. Colour profiles are applied and
transparency is laid on white. Not covered: orientation; the edge applies it, and one that is not applied is
refused.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from secondglance_protocol import jpeg, png
from secondglance_protocol.defaults import DEFAULT_LIMITS
from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.exif import exif_orientation
from secondglance_protocol.splicing import splice
from secondglance_protocol.wire import ImageSize
from secondglance_server.errors import ProblemError
from secondglance_server.inference.pixels import matches, to_rgb
from secondglance_server.settings import ServerSettings

BYTES_PER_PIXEL: Final = {"PNG": 8, "JPEG": 13, "WEBP": 19}
"""The most that decoding any kind of file took, measured (docs/log.md).

Pillow's own four bytes, three of the array that comes out, and what the decoder needs beside them. JPEG: the
coefficients of a progressive one in four colours. WebP: libwebp's animation decoder, two canvases and a copy.
"""

MAX_JPEG_SCANS = 64  # a scan repeats a pass over the whole picture and may have 60 bytes; encoders write 10
MAX_PNG_CHUNKS = 20_000  # the largest patch, in the chunks of 8 KB that libpng writes, has some thousand

_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBP"),
)
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"})
_LOW_BYTES = "RGB;16L"  # unpacks the second byte of each 16-bit sample, which Pillow otherwise drops


class DecodingMemory:
    """Bounds what the images that are being decoded hold together, reckoned from their headers.

    At most `max_bytes` for all; an image that alone is over it is decoded alone. Thread-safe. Not covered:
    the array's further life.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._freed = threading.Condition()

    @contextmanager
    def room_for(self, format_name: str, size: ImageSize) -> Iterator[None]:
        """Hold room for one decoding; wait until there is some."""
        n_bytes = BYTES_PER_PIXEL[format_name] * size.width * size.height
        with self._freed:
            self._freed.wait_for(lambda: self._held == 0 or self._held + n_bytes <= self._max_bytes)
            self._held += n_bytes
        try:
            yield
        finally:
            with self._freed:
                self._held -= n_bytes
                self._freed.notify_all()


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one upload may hold, decoded. Sides in pixels; `max_aspect_ratio` is longer over shorter."""

    max_pixels: int
    min_side: int
    max_side: int
    max_aspect_ratio: float

    def complaint(self, width: int, height: int) -> ProblemError | None:
        """Return why an image of this size is not taken, or None."""
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
    """Return the limits of the global image."""
    return ImageLimits(
        max_pixels=settings.max_image_pixels,
        min_side=DEFAULT_LIMITS.min_side_pixels,
        max_side=DEFAULT_LIMITS.max_side_pixels,
        max_aspect_ratio=DEFAULT_LIMITS.max_aspect_ratio,
    )


def patch_limits(settings: ServerSettings) -> ImageLimits:
    """Return the limits of the patch."""
    return replace(image_limits(settings), max_pixels=settings.max_patch_pixels)


@dataclass(frozen=True, slots=True)
class _Header:
    """What an upload says before anything is allocated for its pixels; `read` decodes them."""

    width: int
    height: int
    read: Callable[[], NDArray[np.uint8]]
    orientation: int = 1
    n_frames: int = 1


@dataclass(frozen=True, slots=True)
class Inspected:
    """An upload that may be decoded; nothing is allocated for its pixels yet."""

    format_name: str
    size: ImageSize
    read: Callable[[], NDArray[np.uint8]]

    @property
    def n_bytes(self) -> int:
        """The most that decoding takes."""
        return BYTES_PER_PIXEL[self.format_name] * self.size.width * self.size.height

    def decode(self, memory: DecodingMemory | None = None) -> NDArray[np.uint8]:
        """Return the picture as uint8 [height, width, 3]; wait for room in `memory`, and then decode.

        Blocks, so it is called off the event loop. Raises ProblemError UNREADABLE_IMAGE,
        UNSUPPORTED_MEDIA_TYPE or UNORIENTED_IMAGE.
        """
        room = memory.room_for(self.format_name, self.size) if memory else nullcontext()
        with room, _as_problem(self.format_name):
            return self.read()


def inspect(
    data: bytes, limits: ImageLimits, check_size: Callable[[ImageSize], None] = lambda _: None
) -> Inspected:
    """Check an upload's header.

    Raises ProblemError: UNSUPPORTED_MEDIA_TYPE, IMAGE_TOO_LARGE, IMAGE_SHAPE_REFUSED, UNORIENTED_IMAGE or
    UNREADABLE_IMAGE; and what `check_size` raises, which sees the size before decoding.
    """
    format_name = _sniff(data)
    with _as_problem(format_name):
        header = _HEADERS[format_name](data)
    if complaint := limits.complaint(header.width, header.height):
        raise complaint
    _check_frames(header.n_frames)
    size = ImageSize(width=header.width, height=header.height)
    check_size(size)
    _check_orientation(header.orientation)
    return Inspected(format_name, size, header.read)


def decode(
    data: bytes,
    limits: ImageLimits,
    check_size: Callable[[ImageSize], None] = lambda _: None,
    memory: DecodingMemory | None = None,
) -> NDArray[np.uint8]:
    """Inspect and decode at once; return and raise what `inspect` and `Inspected.decode` do."""
    return inspect(data, limits, check_size).decode(memory)


def _sniff(data: bytes) -> str:
    for name, offset, signature in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return name
    raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "the bytes are not those of a JPEG, PNG or WebP")


@contextmanager
def _as_problem(format_name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into the client's problem; what decoders raise is documented nowhere.

    Not MemoryError: the limits rule it out, so it would be ours.
    """
    try:
        yield
    except (ProblemError, MemoryError):
        raise
    except Exception as exc:
        detail = f"the {format_name} data are broken or cut short"
        raise ProblemError(ErrorCode.UNREADABLE_IMAGE, detail) from exc


def _check_frames(n_frames: int) -> None:
    if n_frames != 1:
        raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "animated images are not taken")


def _check_orientation(orientation: int) -> None:
    if orientation != 1:
        raise ProblemError(
            ErrorCode.UNORIENTED_IMAGE,
            f"EXIF orientation is {orientation}: turn the pixels before sending and leave the tag out",
        )


def _loaded(image: Image.Image) -> Image.Image:
    if image.mode not in _MODES:
        raise ProblemError(ErrorCode.UNREADABLE_IMAGE, f"pixels of mode {image.mode} are not taken")
    image.load()
    return image


def _jpeg_header(data: bytes) -> _Header:
    parts = jpeg.take_apart(io.BytesIO(data))
    # Within compressed data this pair of bytes cannot occur: there 0xFF is always stuffed.
    if data.count(b"\xff\xda", parts.scans_at) > MAX_JPEG_SCANS:
        raise ValueError(f"more than {MAX_JPEG_SCANS} scans")

    def file() -> IO[bytes]:
        return splice(io.BytesIO(data), parts.pieces)

    def read() -> NDArray[np.uint8]:
        try:
            image = _loaded(JpegImageFile(file()))
        except OSError:
            whole = jpeg.completed(file().read(), _pixel_digest)
            if whole is None:
                raise
            image = _loaded(JpegImageFile(io.BytesIO(whole)))
        return to_rgb(image, parts.icc_profile)

    image = JpegImageFile(file())
    return _Header(image.width, image.height, read, exif_orientation(parts.exif))


def _pixel_digest(data: bytes) -> bytes:
    return hashlib.sha256(_loaded(JpegImageFile(io.BytesIO(data))).tobytes()).digest()


def _png_header(data: bytes) -> _Header:
    parts = png.take_apart(io.BytesIO(data), max_chunks=MAX_PNG_CHUNKS)

    def image(raw_mode: str | None = None) -> Image.Image:
        found = PngImageFile(splice(io.BytesIO(data), parts.pieces))
        if raw_mode is not None:
            found.tile = [tile._replace(args=raw_mode) for tile in found.tile]
        loaded = _loaded(found)
        # Pillow reads grey of 16 bits with alpha as RGBA, which a grey profile would not fit.
        return loaded.convert("LA") if parts.color_type == png.GREY_ALPHA else loaded

    def read() -> NDArray[np.uint8]:
        if parts.key is None:
            return to_rgb(image(), parts.icc_profile)
        whole = image()
        is_clear = matches(whole, png.scaled_key(parts, whole.mode))
        rgb = to_rgb(whole, parts.icc_profile)
        if parts.bit_depth == 16 and whole.mode == "RGB":
            del whole  # or two would be held
            is_clear &= matches(image(_LOW_BYTES), tuple(sample & 255 for sample in parts.key))
        rgb[is_clear] = 255
        return rgb

    return _Header(parts.width, parts.height, read, exif_orientation(parts.exif), parts.n_frames)


def _webp_header(data: bytes) -> _Header:
    """Read the size alone: opening a WebP allocates its canvases."""
    width, height = _webp_size(data)

    def read() -> NDArray[np.uint8]:
        image = WebPImageFile(io.BytesIO(data))
        if image.size != (width, height):
            raise ValueError("two sizes")
        _check_frames(image.n_frames)
        _check_orientation(exif_orientation(image.info.get("exif")))
        return to_rgb(_loaded(image), image.info.get("icc_profile"))

    return _Header(width, height, read)


def _webp_size(data: bytes) -> tuple[int, int]:
    def number(at: int, n_bytes: int) -> int:
        return int.from_bytes(data[at : at + n_bytes], "little")

    kind = data[12:16]
    if kind == b"VP8X":
        return number(24, 3) + 1, number(27, 3) + 1
    if kind == b"VP8L" and data[20:21] == b"\x2f":
        return (number(21, 4) & 0x3FFF) + 1, (number(21, 4) >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return number(26, 2) & 0x3FFF, number(28, 2) & 0x3FFF
    raise ValueError("a WebP without a picture")


_HEADERS = {"JPEG": _jpeg_header, "PNG": _png_header, "WEBP": _webp_header}
