"""Files that are small and would keep a decoder busy for minutes, and the many shapes that real ones have."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from secondglance_server.errors import ProblemError
from secondglance_server.inference.image_structure import structure_complaint
from secondglance_server.inference.intake import decode, patch_limits
from secondglance_server.settings import ServerSettings
from tests.server.exchange import encode

LIMITS = patch_limits(ServerSettings())
JPEG = encode(64, 48, "JPEG")
PNG = encode(64, 48)


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
    "a PNG of 300,000 chunks": lambda: after_header(chunk(b"abCd") * 300_000),
    "a PNG of 300,000 texts": lambda: after_header(chunk(b"tEXt", b"a\0") * 300_000),
    "a PNG of 300,000 empty IDATs": lambda: after_header(chunk(b"IDAT") * 300_000),
}


@pytest.mark.parametrize("name", BUSY)
def test_what_would_keep_a_decoder_busy_is_refused(name: str) -> None:
    """By processor time, as the machine may be busy: some took minutes, none takes a second now."""
    data = BUSY[name]()
    began = time.process_time()
    with pytest.raises(ProblemError) as caught:
        decode(data, LIMITS)
    assert time.process_time() - began < 1.0
    assert caught.value.code == "unreadable_image"


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
    assert structure_complaint("JPEG", buffer.getvalue()) is None
    assert decode(buffer.getvalue(), LIMITS).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("n_bytes", range(0, len(JPEG), 7))
def test_a_file_cut_anywhere_is_left_to_the_decoder(n_bytes: int) -> None:
    assert structure_complaint("JPEG", JPEG[:n_bytes]) is None
    assert structure_complaint("PNG", PNG[:n_bytes]) is None


def test_the_largest_png_passes() -> None:
    """A patch of 16 MB in the chunks of 8 KB that libpng writes."""
    assert structure_complaint("PNG", after_header(chunk(b"IDAT", bytes(8192)) * 2048)) is None
