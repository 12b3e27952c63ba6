"""Files that are small and would keep a decoder busy for minutes, and the many shapes that real ones have."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from secondglance_protocol import jpeg, png
from secondglance_server.errors import ProblemError
from secondglance_server.inference.intake import MAX_PNG_CHUNKS, decode, patch_limits
from secondglance_server.settings import ServerSettings
from tests.server.exchange import encode

LIMITS = patch_limits(ServerSettings())
JPEG = encode(64, 48, "JPEG")
PNG = encode(64, 48)
PNG_HEADER_BYTES = 33


def segment(marker: int, data: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def after_start(data: bytes) -> bytes:
    """A JPEG with `data` behind its first marker."""
    return JPEG[:2] + data + JPEG[2:]


def after_header(data: bytes) -> bytes:
    """A PNG with `data` behind its header."""
    return PNG[:33] + data + PNG[33:]


def progressive(width: int, height: int, repeats: int) -> bytes:
    """A progressive JPEG of one colour; its shortest scan of detail stands there `repeats` times more."""
    whole = encode(width, height, "JPEG", mode="L", color="gray", progressive=True, quality=90)
    starts = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    scans = [whole[start : whole.index(b"\xff", start + 10)] for start in starts[1:]]
    return whole[:-2] + min(scans, key=len) * repeats + whole[-2:]


BUSY: dict[str, Callable[[], bytes]] = {
    "a JPEG of 40,000 scans": lambda: progressive(2000, 2000, 40_000),
    "a JPEG of a million segments": lambda: after_start(segment(0xEE) * 1_000_000),
    "a JPEG of a million comments": lambda: after_start(segment(0xFE) * 1_000_000),
    "a JPEG of a million restarts": lambda: after_start(b"\xff\xd0" * 1_000_000),
    "a JPEG with 4 MB of padding": lambda: after_start(b"\xff" * 4_000_000),
    "a JPEG with 4 MB of stuffing": lambda: after_start(b"\xff\x00" * 2_000_000),
    "a JPEG with 4 MB of junk": lambda: after_start(segment(0xEE) + bytes(4_000_000)),
    **{
        f"a JPEG with a segment {marker:02X} that is full of FF": lambda marker=marker: after_start(
            segment(marker, b"\xff" * 60_000) + b"\xff" * 4_000_000
        )
        for marker in (0xC8, 0xD8, 0xD9, 0xF0, 0xF7, 0xFD, 0x02, 0xBF)
    },
    "a JPEG whose comments hold its junk": lambda: after_start(segment(0xF0, b"\xff" * 65_000) * 60),
    "a JPEG of 60,000 quantization tables": lambda: after_start(
        segment(0xDB, (b"\0" + b"\1" * 64) * 1000) * 60
    ),
    "a JPEG that ends and goes on": lambda: JPEG[:2] + b"\xff\xd9" + b"\xff" * 4_000_000 + JPEG[2:],
    "a PNG of 300,000 chunks": lambda: after_header(chunk(b"abCd") * 300_000),
    "a PNG of 300,000 texts": lambda: after_header(chunk(b"tEXt", b"a\0") * 300_000),
    "a PNG of 300,000 empty IDATs": lambda: after_header(chunk(b"IDAT") * 300_000),
}


@pytest.mark.parametrize("name", BUSY)
def test_what_would_keep_a_decoder_busy_is_refused(name: str) -> None:
    """By processor time, as the machine may be busy: some took minutes, none takes a second now.

    S2: segments that the check skipped and the decoder walked through, byte by byte in Python.
    """
    data = BUSY[name]()
    began = time.process_time()
    with pytest.raises(ProblemError) as caught:
        decode(data, LIMITS)
    assert time.process_time() - began < 1.0
    assert caught.value.code == "unreadable_image"


SLOW_SIDE_DATA: dict[str, Callable[[], bytes]] = {
    "Photoshop resources": lambda: after_start(
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * 5000) * 240
    ),
    "EXIF in many segments": lambda: after_start(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 240),
    "an EXIF of 65,535 entries": lambda: after_start(
        segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x01\x01\3\0\1\0\0\0\1\0\0\0" * 5000)
    ),
    "a PNG with 200 inflating texts": lambda: after_header(
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 1))) * 200
    ),
}


@pytest.mark.parametrize("name", SLOW_SIDE_DATA)
def test_s2_side_data_cost_nothing(name: str) -> None:
    """S2: what a decoder does with side data is bounded by leaving them out."""
    data = SLOW_SIDE_DATA[name]()
    began = time.process_time()
    assert decode(data, LIMITS).shape == (48, 64, 3)
    assert time.process_time() - began < 0.5


def test_the_most_scans_that_are_taken_are_decoded_in_time() -> None:
    """25 megapixels in as many scans as are allowed: some seconds, far from the minutes of thousands."""
    data = progressive(5000, 5000, 64 - 6)
    assert data.count(b"\xff\xda") == 64
    began = time.process_time()
    assert decode(data, LIMITS).shape == (5000, 5000, 3)
    spent_s = time.process_time() - began
    print(f"\n64 scans of 25 megapixels: {spent_s:.2f} s")
    assert spent_s < 20


@pytest.mark.parametrize("size", [(8, 8), (640, 480), (1600, 1200)])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_every_jpeg_of_an_encoder_passes(size: tuple[int, int], progressive: bool, subsampling: str) -> None:
    picture = Image.effect_noise(size, 100).convert("RGB")
    buffer = io.BytesIO()
    options = {"progressive": progressive, "subsampling": subsampling, "restart_marker_rows": 1}
    picture.save(buffer, "JPEG", quality=95, comment=b"x" * 60_000, icc_profile=bytes(500_000), **options)
    assert jpeg.take_apart(io.BytesIO(buffer.getvalue())).icc_profile == bytes(500_000)
    assert decode(buffer.getvalue(), LIMITS).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("n_bytes", range(0, len(JPEG), 7))
def test_a_file_cut_anywhere_is_left_to_the_decoder(n_bytes: int) -> None:
    """Neither is refused for how it is built, once a PNG's header is there."""
    jpeg.take_apart(io.BytesIO(JPEG[:n_bytes]))
    if n_bytes >= PNG_HEADER_BYTES:
        png.take_apart(io.BytesIO(PNG[:n_bytes]))


def test_the_largest_png_passes() -> None:
    """A patch of 16 MB in the chunks of 8 KB that libpng writes."""
    whole = after_header(chunk(b"IDAT", bytes(8192)) * 2048)
    assert len(png.take_apart(io.BytesIO(whole), max_chunks=MAX_PNG_CHUNKS).pieces) > 2048
