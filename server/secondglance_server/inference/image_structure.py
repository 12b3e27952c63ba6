"""How an upload is built, before a decoder sees it: what would keep one busy out of all proportion.

Pixels and bytes do not bound a decoder's work. A progressive JPEG repeats a pass over the whole picture for
each scan, and a scan may have 60 bytes: 4 MB of them take minutes. Pillow walks the segments of a JPEG and
the chunks of a PNG in Python, byte by byte where there is junk. Encoders write around 10 scans, tens of
segments and, for the largest patch, some thousand chunks. Not covered: WebP, which is one frame of bounded
pixels to its decoder.
"""

from __future__ import annotations

MAX_JPEG_SCANS = 64
MAX_JPEG_SEGMENTS = 2000
MAX_JPEG_JUNK_BYTES = 2000
MAX_PNG_CHUNKS = 20_000

_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_SCAN, _END = 0xDA, 0xD9


def structure_complaint(format_name: str, data: bytes) -> str | None:
    """What is out of proportion, or None. Does not judge whether the file is whole or even readable."""
    if format_name == "JPEG":
        return _of_jpeg(data)
    if format_name == "PNG":
        return _of_png(data)
    return None


def _of_jpeg(data: bytes) -> str | None:
    n_segments, junk, at = 0, 0, 0
    while n_segments <= MAX_JPEG_SEGMENTS and junk <= MAX_JPEG_JUNK_BYTES:
        marker_at = data.find(b"\xff", at)
        if marker_at < 0 or marker_at + 1 >= len(data):
            return None
        junk += marker_at - at
        marker = data[marker_at + 1]
        if marker in (0x00, 0xFF):  # stuffing and padding
            junk += 1
            at = marker_at + 1 + (marker == 0x00)
        elif marker in (_SCAN, _END):
            # Within compressed data this pair of bytes cannot occur: there 0xFF is always stuffed.
            if data.count(b"\xff\xda", marker_at) > MAX_JPEG_SCANS:
                return f"more than {MAX_JPEG_SCANS} scans"
            return None
        else:
            n_segments += 1
            has_length = marker not in _ALONE
            at = marker_at + 2 + (_number(data, marker_at + 2, 2) if has_length else 0)
    return "too much before the first scan"


def _of_png(data: bytes) -> str | None:
    at = 8
    for _ in range(MAX_PNG_CHUNKS):
        if at + 8 > len(data) or data[at + 4 : at + 8] == b"IEND":
            return None
        at += 12 + _number(data, at, 4)
    return f"more than {MAX_PNG_CHUNKS} chunks"


def _number(data: bytes, at: int, n_bytes: int) -> int:
    return int.from_bytes(data[at : at + n_bytes], "big")
