"""What of a JPEG makes its pixels. Everything else in the file is side data, which must not spoil a picture.

A decoder is shown only the segments that it needs; colour profile and EXIF are read here. Decoders walk the
head of a JPEG in Python, byte by byte where there is junk, so what would keep one busy is refused: encoders
write tens of segments and no junk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

from secondglance_protocol.splicing import Piece

MAX_SEGMENTS = 2000  # before the first scan
MAX_JUNK_BYTES = 2000
MAX_TABLE_BYTES = 65_536  # of quantization; encoders write some hundreds

END = b"\xff\xd9"
_ONES = b"\xff\x00" * 64 + END  # where bits are missing, a decoder that meets END reads zeros

_PROGRESSIVE, _SCAN, _QUANTIZATION, _COMMENT = 0xC2, 0xDA, 0xDB, 0xFE
_NEEDED = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xE0)} - {0xC8})
_JFIF, _EXIF, _PROFILE, _ADOBE = 0xE0, 0xE1, 0xE2, 0xEE
_RESTARTS = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length that say nothing
_ALONE = frozenset({0x00, *_RESTARTS, 0xD8, 0xD9})  # with stuffing, start and end
_COLOR_HINTS = frozenset({(_JFIF, b"JFIF\0"), (_ADOBE, b"Adobe")})  # how the colours are stored
_MAX_COLOR_HINT_BYTES = 100


@dataclass(slots=True)
class JpegParts:
    """A JPEG taken apart: `pieces` are what a decoder is shown, the rest is what the side data say."""

    pieces: list[Piece]
    scans_at: int = 0  # bytes into the file
    exif: bytes | None = None
    has_companions: bool = False  # further pictures behind the first (MPO)
    _profile_parts: dict[int, bytes] = field(default_factory=dict)
    _n_profile_parts: int = 0

    @property
    def icc_profile(self) -> bytes | None:
        """The colour profile, or None unless all of its parts are there."""
        numbers = range(1, self._n_profile_parts + 1)
        if not numbers or any(number not in self._profile_parts for number in numbers):
            return None
        return b"".join(self._profile_parts[number] for number in numbers)

    def _take_profile_part(self, body: bytes) -> None:
        number, self._n_profile_parts = body[12], body[13]
        self._profile_parts.setdefault(number, body[14:])


def take_apart(file: IO[bytes]) -> JpegParts:
    """Return the parts of the JPEG that starts at the beginning of `file`.

    Raises ValueError for markers that no decoder knows and for more segments, junk or tables before the first
    scan than any encoder writes. A file that is cut short is left to the decoder.
    """
    parts = JpegParts([b"\xff\xd8"])
    n_bytes = file.seek(0, 2)
    at, junk, table_bytes = 2, 0, 0
    for _ in range(MAX_SEGMENTS):
        marker, start = _next_marker(file, at, MAX_JUNK_BYTES - junk)
        junk += start - at
        if marker is None or marker == _SCAN:
            parts.scans_at = start
            parts.pieces.append((start, n_bytes - start))
            return parts
        at = start + 2
        if marker in _RESTARTS:
            continue
        if marker not in _NEEDED and not _JFIF <= marker <= 0xEF and marker != _COMMENT:
            raise ValueError(f"a JPEG with the marker {marker:02X}, which no decoder knows")
        length = max(2, int.from_bytes(file.read(2)))
        at += length
        table_bytes += length if marker == _QUANTIZATION else 0
        if table_bytes > MAX_TABLE_BYTES:
            raise ValueError("a JPEG with too many quantization tables")
        if marker in _NEEDED:
            parts.pieces.append((start, at - start))
        else:
            _take_side_data(parts, marker, start, file.read(length - 2))
    raise ValueError("a JPEG with too much before its first scan")


def _take_side_data(parts: JpegParts, marker: int, start: int, body: bytes) -> None:
    if marker == _EXIF and body.startswith(b"Exif\0\0"):
        parts.exif = parts.exif or body
    elif marker == _PROFILE and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
        parts._take_profile_part(body)
    elif marker == _PROFILE and body.startswith(b"MPF\0"):
        parts.has_companions = True
    elif (marker, body[:5]) in _COLOR_HINTS and len(body) <= _MAX_COLOR_HINT_BYTES:
        parts.pieces.append((start, 4 + len(body)))


def _next_marker(file: IO[bytes], at: int, max_junk: int) -> tuple[int | None, int]:
    """Return the next marker and where its last FF is; None at the end of the file."""
    file.seek(at)
    block = file.read(max_junk + 3)
    for number in range(len(block) - 1):
        if block[number] == 0xFF and block[number + 1] not in (0x00, 0xFF):
            file.seek(at + number + 2)
            return block[number + 1], at + number
    if len(block) == max_junk + 3:
        raise ValueError("a JPEG with too much before its first scan")
    return None, at + len(block)


def completed(data: bytes, pixels_of: Callable[[bytes], bytes]) -> bytes | None:
    """Return a JPEG without its end marker with one, or None unless it holds every pixel.

    `pixels_of(jpeg)` decodes at full size and returns the pixels or a digest of them; what it raises is
    passed on. Zeros at the end are what a lost write leaves, so they count as missing.

    A decoder cannot say whether pixels are missing: it fills them with grey. So the picture is decoded twice,
    with bits behind the file's last that differ; where they change nothing, nothing was missing.
    """
    padding = len(data) - len(data.rstrip(b"\0"))
    if padding > 1:
        data = data[:-padding]
    if _scans_are_whole(data) and pixels_of(data + END) == pixels_of(data + _ONES):
        return data + END
    return None


def _scans_are_whole(data: bytes) -> bool:
    """Return whether the scans of a progressive JPEG bring every coefficient to its last bit."""
    unfinished: set[tuple[int, int]] = set()
    for marker, body in _segments(data):
        if marker == _PROGRESSIVE:
            ids = [body[at] for at in range(6, len(body), 3)]
            unfinished = {(component, k) for component in ids for k in range(64)}
        elif marker == _SCAN and len(body) >= 4 and unfinished:
            n_components = body[0]
            first, last, bits = body[-3], body[-2], body[-1]
            if bits & 15 == 0:
                ids = [body[1 + 2 * number] for number in range(n_components)]
                unfinished -= {(component, k) for component in ids for k in range(first, last + 1)}
    return not unfinished


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = data.find(b"\xff")
    while 0 <= at < len(data) - 1:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        at += 2
        if marker not in _ALONE:
            n_bytes = int.from_bytes(data[at : at + 2])
            yield marker, data[at + 2 : at + n_bytes]
            at += n_bytes
        at = data.find(b"\xff", at)
