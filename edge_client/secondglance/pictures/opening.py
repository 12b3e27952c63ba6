"""Open a picture of any format that the edge takes: which decoder, which frame, which side data count.

A JPEG's pixels stay in its file; other formats are decoded here, whole. Of several frames or pages the first
is taken (of a HEIC the primary one), and `Opened.note` says so. Side data that cannot be read are ignored.
What the decoders raise is passed on as it is.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from secondglance.errors import BadImageError
from secondglance.pictures.color import high_byte
from secondglance.pictures.heic import is_heic, open_heic
from secondglance.pictures.heif_boxes import read_meta, without_side_data
from secondglance.pictures.orientation import Size, orientation_of, turn_upright
from secondglance.pictures.pdf import is_pdf, render_page
from secondglance.pictures.png import decode_png
from secondglance_protocol.exif import exif_orientation
from secondglance_protocol.jpeg import take_apart as take_jpeg_apart
from secondglance_protocol.png import take_apart as take_png_apart
from secondglance_protocol.splicing import splice

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF")
"""Formats tried, by content. Deliberately no format whose decoder starts another program."""

_PREFIX_BYTES = 64
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _TIFF_ORIENTATION = 258, 262, 339, 274  # TIFF tags
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2

CheckSize = Callable[[Size], None]


@dataclass(slots=True)
class Opened:
    """A picture whose header is read. `image` holds the pixels but of a JPEG; `orientation` turns them."""

    image: Image.Image
    format: str | None
    orientation: int = 1
    icc_profile: bytes | None = None
    note: str | None = None
    jpeg: IO[bytes] | None = None  # the file without side data, whose pixels are decoded when asked for


def open_file(file: IO[bytes], check_size: CheckSize) -> Opened:
    """Open the picture in `file`, by content.

    Calls `check_size` with width and height from the header, before pixels are decoded. Raises BadImageError
    for an unknown format, and what the decoders raise.
    """
    file.seek(0)
    prefix = file.read(_PREFIX_BYTES)
    file.seek(0)
    if is_heic(prefix):
        return _open_heic(file, check_size)
    if is_pdf(prefix):
        return _open_pdf(file, check_size)
    Image.preinit()
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:
            continue  # this build of Pillow has no decoder for it
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(prefix[:16]) is True:
            return _OPENERS.get(name, _open_plain)(file, check_size, factory)
    raise BadImageError(f"not a picture in a known format ({', '.join((*FORMATS, 'HEIC', 'PDF'))})")


def open_decoded(image: Image.Image, check_size: CheckSize) -> Opened:
    """Open a picture that the caller has as a Pillow image, which is left as it is."""
    check_size(image.size)
    image.load()
    return Opened(image, image.format, orientation_of(image), image.info.get("icc_profile"))


_Factory = Callable[[IO[bytes], str], Image.Image]


def _open_plain(file: IO[bytes], check_size: CheckSize, factory: _Factory) -> Opened:
    """Open WebP, BMP, PPM."""
    image = factory(file, "")
    check_size(image.size)
    note = _several(image.format, getattr(image, "is_animated", False))
    image.load()
    orientation = exif_orientation(image.info.get("exif"))
    return Opened(image, image.format, orientation, image.info.get("icc_profile"), note)


def _open_jpeg(file: IO[bytes], check_size: CheckSize, _: _Factory) -> Opened:
    parts = take_jpeg_apart(file)
    bare = splice(file, parts.pieces)
    image = JpegImageFile(bare)
    check_size(image.size)
    # The further pictures of an MPO are previews and depth maps of the first: no note.
    format_name = "MPO" if parts.has_companions else "JPEG"
    return Opened(image, format_name, exif_orientation(parts.exif), parts.icc_profile, jpeg=bare)


def _open_png(file: IO[bytes], check_size: CheckSize, _: _Factory) -> Opened:
    parts = take_png_apart(file)
    check_size((parts.width, parts.height))
    note = _several("PNG", parts.n_frames > 1)
    orientation = exif_orientation(parts.exif)
    return Opened(decode_png(file, parts), "PNG", orientation, parts.icc_profile, note)


def _open_pdf(file: IO[bytes], check_size: CheckSize) -> Opened:
    page, n_pages = render_page(file, 1)
    check_size(page.size)
    return Opened(page, "PDF", note=_several("PDF", n_pages > 1))


class _FirstPage(TiffImageFile):
    """A TIFF of which nothing but the first page is looked at."""

    def load_end(self) -> None:
        """Leave the pixels as stored: Pillow would read all of the EXIF and XMP here to turn them."""


def _open_tiff(file: IO[bytes], check_size: CheckSize, _: _Factory) -> Opened:
    image = _FirstPage(file, "")
    check_size(image.size)
    note = _several("TIFF", image.is_animated)
    tags = image.tag_v2
    orientation = tags.get(_TIFF_ORIENTATION, 1)
    image.load()
    profile = image.info.get("icc_profile")
    # Pillow has swapped the sides in the header already, so the pixels are turned here.
    stored = turn_upright(image, orientation if orientation in range(1, 9) else 1)
    bits, kinds = tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))
    if _SIGNED in kinds or (image.mode.startswith("I") and bits > 16):
        raise BadImageError(f"a TIFF of such {bits}-bit integers has no defined white; convert it to 8 bits")
    if image.mode.startswith("I"):
        stored = high_byte(stored, bits, inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    return Opened(stored, "TIFF", 1, profile, note)


def _open_gif(file: IO[bytes], check_size: CheckSize, _: _Factory) -> Opened:
    image = GifImageFile(file, "")
    check_size(image.size)
    note = _several("GIF", _has_second_frame(image))
    frame = image.tile[0].extents if image.tile else None
    image.load()
    if frame is None or frame == (0, 0, *image.size):
        return Opened(image, "GIF", note=note)
    # Around a first frame that is smaller than the picture nothing is drawn, not the palette's first colour.
    canvas = Image.new("RGBA", image.size, (0, 0, 0, 0))
    canvas.paste(image.convert("RGBA").crop(frame), frame)
    return Opened(canvas, "GIF", note=note)


def _has_second_frame(image: GifImageFile) -> bool:
    try:
        return image.is_animated
    except Exception:  # whatever is wrong with the second frame, the first is asked about
        return True


def _open_avif(file: IO[bytes], check_size: CheckSize, factory: _Factory) -> Opened:
    data = file.read()
    meta = read_meta(data)
    image = factory(io.BytesIO(without_side_data(data, meta)), "")
    check_size(image.size)
    note = _several("AVIF", getattr(image, "is_animated", False))
    image.load()
    # What the container says, which Pillow tells as EXIF.
    orientation = exif_orientation(image.info.get("exif"))
    profile = image.info.get("icc_profile")
    crop = meta.clean_aperture(image.size)
    if crop:  # not `crop()`, which warns above Pillow's process-wide limit
        size = (crop[2] - crop[0], crop[3] - crop[1])
        image = image.resize(size, Image.Resampling.NEAREST, box=crop)
    return Opened(image, "AVIF", orientation, profile, note)


def _open_heic(file: IO[bytes], check_size: CheckSize) -> Opened:
    data = file.read()
    meta = read_meta(data)
    image = open_heic(io.BytesIO(without_side_data(data, meta)))
    check_size(image.size)
    note = _several("HEIF", meta.n_pictures > 1, which="primary")
    image.load()  # upright: the decoder turns and crops as the container says
    return Opened(image, image.format, 1, image.info.get("icc_profile"), note)


def _several(format_name: str | None, is_several: bool, *, which: str = "first") -> str | None:
    if not is_several:
        return None
    return f"the {format_name} file holds several pictures; the {which} one is asked about"


_OPENERS = {
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "TIFF": _open_tiff,
    "GIF": _open_gif,
    "AVIF": _open_avif,
}
