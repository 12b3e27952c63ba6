"""Decode a band of rows of a JPEG in the memory of that band.

A JPEG has no index: rows above the band must be decoded, but nobody needs their pixels. The decoder
writes into anonymous memory of our own, and every time it asks for more of the file we give the pages
outside the band back to the system. A 48-megapixel picture then costs its crop's rows, not 192 MB
(Pillow stores RGB in four bytes).

Correct everywhere; saves memory where the system has `madvise(MADV_DONTNEED)` (Linux). Not covered:
progressive JPEGs, whose coefficients libjpeg holds itself until the last scan.
"""

from __future__ import annotations

import io
import mmap
from typing import IO, Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

_CANVAS_MODES = {"RGB": "RGBX", "CMYK": "CMYK", "L": "L"}
_BLOCKS = 100
_MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES = 1024, 65_536
_DONTNEED: int | None = getattr(mmap, "MADV_DONTNEED", None)


class BandJpeg(JpegImageFile):
    """A JPEG of which `load_band` keeps only some rows; `draft` works as usual and comes first."""

    def load_band(self, top: int, bottom: int) -> Image.Image:
        """The picture (mode RGBX, CMYK or L) of which only rows [top, bottom) hold pixels. Raises OSError."""
        self._band = (top, bottom)
        self.load()
        return self._canvas

    def load_prepare(self) -> None:
        mode = _CANVAS_MODES[self.mode]
        width, height = self.size
        self._row_bytes = width * len(mode)  # each letter of these modes is one byte
        self._memory = mmap.mmap(-1, self._row_bytes * height)
        memory: Any = self._memory  # Pillow's annotation knows bytes and bytearray; any writable buffer works
        self._canvas = Image.frombuffer(mode, self.size, memory, "raw", mode, 0, 1)
        self.im = self._canvas.im

    def load_read(self, read_bytes: int) -> bytes:
        self._forget_outside()
        return super().load_read(read_bytes)

    def _forget_outside(self) -> None:
        if _DONTNEED is None:
            return
        top, bottom = self._band
        above = top * self._row_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        below = -(-bottom * self._row_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if above > 0:
            self._memory.madvise(_DONTNEED, 0, above)
        if below < len(self._memory):
            self._memory.madvise(_DONTNEED, below, len(self._memory) - below)


def open_jpeg(file: IO[bytes]) -> BandJpeg:
    """Read the header of the JPEG at the start of `file`."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    jpeg = BandJpeg(file)
    # Memory is given back once a block: a well-compressed picture must not fit into a few of them.
    jpeg.decodermaxblock = min(max(size // _BLOCKS, _MIN_BLOCK_BYTES), _MAX_BLOCK_BYTES)
    return jpeg
