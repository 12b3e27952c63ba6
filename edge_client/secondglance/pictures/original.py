"""The original picture: opened lazily, upright, in sRGB, decoded no further than each task needs.

Knows nothing of HTTP or of encodings to send. A JPEG's global view is decoded at a reduced scale and
a crop costs the memory of its rows; other formats are decoded once, whole, and kept while open.

The pixel limit is ours, checked on the header before any decoding; Pillow's process-wide one stays as it is.
Of several frames or pages the first is taken, and `notes` says so. Not covered: files that change while they
are open.
"""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeAlias

from PIL import Image

from secondglance.errors import BadImageError
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.color import RESAMPLABLE, to_srgb
from secondglance.pictures.jpeg_band import BandJpeg, open_jpeg
from secondglance.pictures.opening import open_decoded, open_file
from secondglance.pictures.orientation import Box, Size, stored_box, swaps_sides, turn_upright, upright_size
from secondglance_protocol.jpeg import completed
from secondglance_protocol.protocol import MAX_ORIGINAL_SIDE

ImageSource: TypeAlias = str | PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image

MAX_ORIGINAL_PIXELS = 250_000_000

FloatBox: TypeAlias = tuple[float, float, float, float]

_OVERSAMPLING = 1.5  # decoded pixels per pixel of the target, at least; LANCZOS does the rest


class Original:
    """One picture. `size` is upright (as a viewer shows it); boxes are half-open pixels of that size.

    Use as a context manager. Raises BadImageError wherever the picture cannot be read or decoded.
    """

    def __init__(self, source: ImageSource, *, max_pixels: int = MAX_ORIGINAL_PIXELS) -> None:
        self._file: IO[bytes] | None = None
        self._decoded: Image.Image | None = None
        self.encoded_bytes: int | None = None
        self.notes: tuple[str, ...] = ()
        try:
            with _as_bad_image():
                self._read_header(source, max_pixels)
        except BaseException:
            self.close()
            raise

    def _read_header(self, source: ImageSource, max_pixels: int) -> None:
        def check_size(size: Size) -> None:
            _check_size(size, max_pixels)

        if isinstance(source, Image.Image):
            opened = open_decoded(source, check_size)
        else:
            self._file = _open_file(source)
            self.encoded_bytes = self._file.seek(0, io.SEEK_END)
            opened = open_file(self._file, check_size)
        self.format = opened.format
        self.notes = () if opened.note is None else (opened.note,)
        self._jpeg = opened.jpeg
        self._decoded = None if opened.jpeg else opened.image
        self._icc_profile = opened.icc_profile
        self._orientation = opened.orientation
        self._stored_size: Size = opened.image.size
        self.size: Size = upright_size(opened.image.size, opened.orientation)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file if we opened it and forget decoded pixels."""
        self._decoded = None
        if self._file is not None:
            self._file.close()

    def content_key(self) -> str | None:
        """SHA-256 of the encoded file; None for a picture that came decoded."""
        if self._file is None:
            return None
        with _as_bad_image():
            self._file.seek(0)
            return hashlib.file_digest(self._file, "sha256").hexdigest()  # type: ignore[arg-type]  # it reads

    def global_image(self, budget: PixelBudget) -> Image.Image:
        """The whole picture, upright RGB in sRGB, no larger than `budget`."""
        return self._region((0, 0, *self.size), budget.fit(self.size))

    def crop(self, pixels: Box) -> Image.Image:
        """The original's own pixels: `ImageOps.exif_transpose(original).crop(pixels)` in sRGB."""
        left, top, right, bottom = pixels
        width, height = self.size
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise BadImageError(f"the box {pixels} does not lie in a picture of {width}x{height} pixels")
        return self._region(pixels, (right - left, bottom - top))

    def patch(self, pixels: Box, budget: PixelBudget) -> Image.Image:
        """`crop(pixels)`, made smaller only if it holds more than `budget`."""
        left, top, right, bottom = pixels
        target = budget.fit((right - left, bottom - top))
        return self.crop(pixels) if target == (right - left, bottom - top) else self._region(pixels, target)

    def _region(self, box: Box, target: Size) -> Image.Image:
        box = stored_box(box, self._stored_size, self._orientation)
        if swaps_sides(self._orientation):
            target = (target[1], target[0])
        with _as_bad_image():
            if self._jpeg is not None:
                raster, inner = self._decode_jpeg_region(box, target)
            else:
                raster, inner = self._cut_decoded(box)
            reduces = raster.size != target
            if reduces and (raster.mode not in RESAMPLABLE or raster.has_transparency_data):
                raster = to_srgb(raster, self._icc_profile)
                raster = _resize(raster, target, inner)
            else:
                raster = to_srgb(_resize(raster, target, inner) if reduces else raster, self._icc_profile)
            return turn_upright(raster, self._orientation)

    def _decode_jpeg_region(self, box: Box, target: Size) -> tuple[Image.Image, FloatBox]:
        """Decode the region; a JPEG that lacks only its end marker is given one."""
        assert self._jpeg is not None, "asked for of JPEGs only"
        try:
            return _decode_region(self._jpeg, box, target)
        except OSError:
            self._jpeg.seek(0)
            whole = completed(self._jpeg.read(), _pixel_digest)
            if whole is None:
                raise
            self._jpeg = io.BytesIO(whole)
            return _decode_region(self._jpeg, box, target)

    def _cut_decoded(self, box: Box) -> tuple[Image.Image, FloatBox]:
        assert self._decoded is not None, "a picture that is no JPEG is decoded when it is opened"
        size = (box[2] - box[0], box[3] - box[1])
        whole = size == self._decoded.size
        return (self._decoded if whole else _cut(self._decoded, box)), (0, 0, *size)


class Opener:
    """Opens one picture when it is called, and owns it.

    For conversations, whose driver may open in a worker thread and be cancelled meanwhile: `close` closes the
    picture, also one that is only being opened.
    """

    def __init__(self, source: ImageSource, max_pixels: int) -> None:
        self._source = source
        self._max_pixels = max_pixels
        self._lock = threading.Lock()
        self._is_over = False
        self._original: Original | None = None

    def __call__(self) -> Original:
        """Raises BadImageError, as `Original` does."""
        original = Original(self._source, max_pixels=self._max_pixels)
        with self._lock:
            self._original = original
            if self._is_over:
                original.close()
        return original

    def close(self) -> None:
        """Close the picture, now or as soon as it is open."""
        with self._lock:
            self._is_over = True
            if self._original is not None:
                self._original.close()


def _check_size(size: Size, max_pixels: int) -> None:
    width, height = size
    if min(size) < 1:
        raise BadImageError(f"the picture is {width}x{height}: it has no pixels")
    if max(size) > MAX_ORIGINAL_SIDE:
        raise BadImageError(f"the picture is {width}x{height}: a side may have {MAX_ORIGINAL_SIDE} pixels")
    if width * height > max_pixels:
        raise BadImageError(f"the picture has {width}x{height} pixels, more than the limit of {max_pixels}")


def _decode_region(file: IO[bytes], box: Box, target: Size) -> tuple[Image.Image, FloatBox]:
    """The box at the smallest scale that oversamples `target`, and where the box lies in those pixels."""
    jpeg = open_jpeg(file)
    scale = _draft_scale(jpeg, box, target)
    left, top, right, bottom = (side / scale for side in box)
    outer = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    raster = _cut(jpeg.load_band(outer[1], outer[3]), outer)
    return raster, (left - outer[0], top - outer[1], right - outer[0], bottom - outer[1])


def _pixel_digest(jpeg: bytes) -> bytes:
    image = open_jpeg(io.BytesIO(jpeg))
    return hashlib.sha256(image.load_band(0, image.height).tobytes()).digest()


def _draft_scale(jpeg: BandJpeg, box: Box, target: Size) -> int:
    """Ask libjpeg for the smallest scale that keeps `_OVERSAMPLING` times `target`; returns its divisor."""
    reserve = min((box[2] - box[0]) / target[0], (box[3] - box[1]) / target[1]) / _OVERSAMPLING
    divisor = max(scale for scale in (1, 2, 4, 8) if scale <= max(1.0, reserve))
    if divisor > 1:
        full_width, full_height = jpeg.size
        jpeg.draft(None, (full_width // divisor, full_height // divisor))
        if jpeg.size != (-(-full_width // divisor), -(-full_height // divisor)):
            raise BadImageError("the JPEG decoder refused a reduced scale")
    return divisor


def _cut(image: Image.Image, box: Box) -> Image.Image:
    """`image.crop(box)`, which itself would warn above Pillow's process-wide limit."""
    size = (box[2] - box[0], box[3] - box[1])
    return image.resize(size, Image.Resampling.NEAREST, box=box)


def _resize(image: Image.Image, target: Size, inner: FloatBox) -> Image.Image:
    return image.resize(target, Image.Resampling.LANCZOS, box=inner, reducing_gap=3.0)


def _open_file(source: str | PathLike[str] | bytes | bytearray | memoryview | IO[bytes]) -> IO[bytes]:
    """Our own file: a path stays open for the picture's life, a caller's file object is read once."""
    if isinstance(source, (str, PathLike)):
        return Path(source).open("rb")
    if not isinstance(source, (bytes, bytearray, memoryview)):
        if not hasattr(source, "read"):
            raise TypeError(f"a {type(source).__name__} is no path, bytes, binary file or PIL image")
        source = source.read()
        if not isinstance(source, bytes):
            raise TypeError("the file object gives text; open it in binary mode")
    return io.BytesIO(source)


@contextmanager
def _as_bad_image() -> Iterator[None]:
    """Turn whatever a decoder raises into BadImageError.

    Broad, as what they raise is documented nowhere: no exception that one picture causes may end a run.
    """
    try:
        yield
    except BadImageError:
        raise
    except Exception as exc:
        raise BadImageError(f"cannot read the picture: {str(exc) or type(exc).__name__}") from exc
