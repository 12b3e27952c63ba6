"""What of a PNG makes its pixels. Everything else in the file is side data, which must not spoil a picture.

A decoder is shown only the chunks that it needs, and what those in the file say beside the pixels is read
here: colour profile, EXIF, transparency, number of frames. A chunk of side data that is damaged (a wrong
checksum, a wrong length, too large when inflated) is skipped. A wrong checksum of the header, the palette or
the pixels is an error: those bytes are damaged. Not covered: gAMA, cHRM and cICP, which nobody here applies.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from secondglance_protocol.splicing import Piece

MAX_PROFILE_BYTES = 4 * 2**20
MAX_CHUNKS = 1_000_000
GREY_ALPHA = 4  # the colour type

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3
_KEPT = frozenset({b"PLTE", b"IDAT", b"IEND"})
_ANCILLARY = frozenset({b"tRNS", b"iCCP", b"eXIf", b"acTL", b"fcTL"})
_MAX_SIDE_DATA_BYTES = 16 * 2**20  # of one chunk
_BLOCK_BYTES = 2**20


class _Chunk(NamedTuple):
    kind: bytes
    start: int  # of its length field
    n_bytes: int  # of its data

    @property
    def end(self) -> int:
        return self.start + 12 + self.n_bytes


@dataclass(slots=True)
class PngParts:
    """A PNG taken apart: `pieces` are what a decoder is shown, the rest is what the side data say.

    `key` is the transparent colour in samples as stored (one of grey, three of RGB, `bit_depth` bits each);
    a palette's transparency stays among the pieces.
    """

    pieces: list[Piece]
    width: int
    height: int
    bit_depth: int
    color_type: int
    key: tuple[int, ...] | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    n_frames: int = 1


def take_apart(file: IO[bytes], *, max_chunks: int = MAX_CHUNKS) -> PngParts:
    """Return the parts of the PNG that starts at the beginning of `file`.

    Raises ValueError if there is no header, if the bytes of header, palette or pixels are damaged, or if
    there are more than `max_chunks` chunks. A file that is cut short is left to the decoder.
    """
    chunks = _chunks(file, max_chunks)
    header = next((chunk for chunk in chunks if chunk.kind == b"IHDR"), None)
    if header is None or header.n_bytes != 13:
        raise ValueError("a PNG without a header")
    _check(file, header)
    fields = _data(file, header)
    parts = PngParts(
        pieces=[_SIGNATURE, (header.start, header.end - header.start)],
        width=int.from_bytes(fields[:4]),
        height=int.from_bytes(fields[4:8]),
        bit_depth=fields[8],
        color_type=fields[9],
    )
    palette_size, n_animated, has_pixels, starts_animated = 0, 0, False, False
    for chunk in chunks:
        if chunk.kind in _KEPT:
            _check(file, chunk)
            if chunk.kind == b"PLTE":
                if has_pixels:
                    continue
                palette_size = chunk.n_bytes // 3
            parts.pieces.append((chunk.start, chunk.end - chunk.start))
            has_pixels = has_pixels or chunk.kind == b"IDAT"
            if chunk.kind == b"IEND":
                break
        elif chunk.kind in _ANCILLARY and _is_sound(file, chunk):
            if chunk.kind == b"eXIf":  # may stand behind the pixels
                parts.exif = parts.exif or _data(file, chunk)
            elif has_pixels:
                continue
            elif chunk.kind == b"fcTL":
                starts_animated = True
            elif chunk.kind == b"acTL":
                n_animated = _n_frames(_data(file, chunk))
            elif chunk.kind == b"iCCP":
                parts.icc_profile = parts.icc_profile or _profile(_data(file, chunk))
            elif parts.color_type == _PALETTE:
                if 0 < chunk.n_bytes <= palette_size:
                    parts.pieces.append((chunk.start, chunk.end - chunk.start))
            else:
                parts.key = parts.key or _key(_data(file, chunk), parts)
    if n_animated:
        parts.n_frames = n_animated + (not starts_animated)  # the still picture may be one of its own
    return parts


def scaled_key(parts: PngParts, mode: str) -> tuple[int, ...]:
    """Return the transparent colour as a decoder scales samples: to 8 bits, but grey of 16 (I;16) as stored.

    Raises ValueError if there is none.
    """
    if parts.key is None:
        raise ValueError("no colour is transparent")
    if parts.bit_depth == 16:
        return parts.key if mode.startswith("I") else tuple(sample >> 8 for sample in parts.key)
    return tuple(sample * 255 // ((1 << parts.bit_depth) - 1) for sample in parts.key)


def _chunks(file: IO[bytes], max_chunks: int) -> Iterator[_Chunk]:
    at = len(_SIGNATURE)
    for _ in range(max_chunks):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        chunk = _Chunk(head[4:], at, int.from_bytes(head[:4]))
        yield chunk
        at = chunk.end
    raise ValueError(f"a PNG of more than {max_chunks} chunks")


def _data(file: IO[bytes], chunk: _Chunk) -> bytes:
    file.seek(chunk.start + 8)
    return file.read(chunk.n_bytes)


def _check(file: IO[bytes], chunk: _Chunk) -> None:
    """Refuse a critical chunk whose checksum is wrong; one that ends after the file is the decoder's."""
    if chunk.kind != b"IEND" and not _checksum_fits(file, chunk, if_cut_short=True):
        raise ValueError(f"the checksum of {chunk.kind.decode()} is wrong: the PNG is damaged")


def _is_sound(file: IO[bytes], chunk: _Chunk) -> bool:
    return chunk.n_bytes <= _MAX_SIDE_DATA_BYTES and _checksum_fits(file, chunk, if_cut_short=False)


def _checksum_fits(file: IO[bytes], chunk: _Chunk, *, if_cut_short: bool) -> bool:
    file.seek(chunk.start + 4)
    checksum, left = 0, 4 + chunk.n_bytes
    while left:
        block = file.read(min(left, _BLOCK_BYTES))
        if not block:
            return if_cut_short
        checksum, left = zlib.crc32(block, checksum), left - len(block)
    stored = file.read(4)
    return int.from_bytes(stored) == checksum if len(stored) == 4 else if_cut_short


def _n_frames(data: bytes) -> int:
    """Return the number of animated frames; 0 for a chunk that makes no sense."""
    n_frames = int.from_bytes(data[:4])
    return n_frames if len(data) >= 8 and n_frames <= 2**31 else 0


def _profile(data: bytes) -> bytes | None:
    """Return the profile of an iCCP chunk: a name, NUL, a zero, deflated bytes."""
    _, _, rest = data.partition(b"\0")
    if rest[:1] != b"\0":
        return None
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if profile and not inflate.unconsumed_tail else None


def _key(data: bytes, parts: PngParts) -> tuple[int, ...] | None:
    """Return the transparent colour; of each two bytes only the low `bit_depth` bits count."""
    n_samples = {_GREY: 1, _RGB: 3}.get(parts.color_type)
    if n_samples is None or len(data) != 2 * n_samples:
        return None
    mask = (1 << parts.bit_depth) - 1
    return tuple(int.from_bytes(data[at : at + 2]) & mask for at in range(0, len(data), 2))
