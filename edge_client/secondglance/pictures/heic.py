"""HEIC, as phones write it: recognised always, opened where the extra `heic` (pillow-heif) is installed.

The decoder is used directly and not registered, so other programs in this process keep their own Pillow.
"""

from __future__ import annotations

import io
from typing import IO

from PIL import Image

from secondglance.errors import BadImageError, MissingExtraError

_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AMBIGUOUS = frozenset({b"mif1", b"msf1"})  # HEIF of whatever codec; the compatible brands say which


def is_heic(prefix: bytes) -> bool:
    """By the file type box; `prefix` holds at least its first 32 bytes, if the file does."""
    if prefix[4:8] != b"ftyp":
        return False
    major, end = prefix[8:12], min(int.from_bytes(prefix[:4]), len(prefix))
    compatible = {prefix[at : at + 4] for at in range(16, end, 4)}
    return major in _BRANDS or (major in _AMBIGUOUS and bool(compatible & _BRANDS))


def open_heic(file: IO[bytes]) -> Image.Image:
    """Read the header; the picture comes upright. Raises MissingExtraError without the extra."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as exc:
        advice = "pip install 'second-glance[heic]'"
        raise MissingExtraError(f"this is a HEIC picture, which needs an extra: {advice}") from exc
    if _is_cut_short(file):  # the decoder would make up what is missing
        raise BadImageError("the HEIC file is cut short")
    file.seek(0)
    image: Image.Image = HeifImageFile(file, "")  # type: ignore[no-untyped-call]  # it has no annotations
    return image


def _is_cut_short(file: IO[bytes]) -> bool:
    """Whether a box at the file's top level ends after the file."""
    end = file.seek(0, io.SEEK_END)
    at = 0
    while at < end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4])
        if size == 1:  # a 64-bit size follows the name
            size = int.from_bytes(head[8:16])
        elif size == 0:  # up to the end of the file
            return False
        if size < 8:
            return True
        at += size
    return at > end
