"""Damage at random places: of side data it spoils nothing, of the body only our own errors come out."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondglance import BadImageError
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original
from secondglance_server.inference.intake import decode, patch_limits
from secondglance_server.settings import ServerSettings
from tests.edge_client.formats.variants import ORIENTATION_XMP, SIZE, chunk

FILES = sorted((Path(__file__).parent / "files").iterdir())
LIMITS = patch_limits(ServerSettings())
BODY_SECONDS = 20
MAX_PIXELS = 4_000_000


def side_data(rng: random.Random) -> bytes:
    """Return EXIF, XMP, a profile or text with some bytes changed, or cut."""
    tags = Image.Exif()
    tags[0x0112] = 1
    tags[0x010F] = "maker"
    kinds = (tags.tobytes()[6:], ORIENTATION_XMP.encode(), b"sRGB profile" * 30, b"words " * 40)
    data = bytearray(rng.choice(kinds))
    for _ in range(rng.randint(1, 12)):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0xFF, rng.randrange(256)))
    for place in range(len(data) - 8):  # an orientation that damage makes up would count, rightly
        if data[place : place + 2] in (b"\x12\x01", b"\x01\x12"):
            data[place] = data[place + 1] = 0
    return bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])


def damaged_side(rng: random.Random) -> Iterator[tuple[bytes, bytes]]:
    """Yield pairs of a file with damaged side data and the same file without any."""
    plain = Image.effect_noise(SIZE, 60).convert("RGB")
    png, jpeg = _encoded(plain, "PNG"), _encoded(plain, "JPEG")
    while True:
        body = side_data(rng)
        kind = rng.choice(
            (b"eXIf", b"iTXt", b"zTXt", b"tEXt", b"iCCP", b"pHYs", b"gAMA", b"cHRM", b"bKGD", b"tIME")
        )
        inner = rng.choice((body, b"a\0\0" + zlib.compress(body), b"a\0\0" + body))
        made = bytearray(chunk(kind, inner))
        if rng.random() < 0.5:
            made[-rng.randint(1, 4)] ^= 1 << rng.randrange(8)
        yield png[:33] + bytes(made) + png[33:], png
        head = rng.choice(
            (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0\1\1", b"MPF\0", b"")
        )
        marker = rng.choice((0xE1, 0xE2, 0xED, 0xFE))
        segment = struct.pack(">BBH", 0xFF, marker, len(head + body) + 2) + head + body
        yield jpeg[:2] + segment + jpeg[2:], jpeg
        webp = _encoded(plain, "WEBP", lossless=True, exif=b"Exif\0\0II*\0" + bytes(60), xmp=b"x" * 60)
        at = webp.rindex(rng.choice((b"EXIF", b"XMP "))) + 8
        yield webp[:at] + body[:40].ljust(40, b"\0") + webp[at + 40 :], webp


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    from tests.edge_client.formats.make import saved

    return saved(image, kind, **options)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_side_data_spoil_no_picture(seed: int) -> None:
    """I4, I5: such files were refused, by one side or by both."""
    pairs = damaged_side(random.Random(seed))
    for _ in range(150):
        data, plain = next(pairs)
        with Original(data) as found, Original(plain) as wanted:
            assert found.crop((0, 0, *SIZE)).tobytes() == wanted.crop((0, 0, *SIZE)).tobytes(), data
        np.testing.assert_array_equal(decode(data, LIMITS), decode(plain, LIMITS))


def damaged_body(data: bytes, rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 40))):
        at = rng.randrange(len(made))
        made[at : at + rng.randint(1, 4)] = rng.randbytes(rng.randint(0, 4))
    return bytes(made[: rng.choice((len(made), rng.randrange(1, len(made))))])


def test_damage_of_every_format_gives_a_picture_or_a_bad_image() -> None:
    """I1: open, reduce and crop raise BadImageError alone, and no input takes ten seconds."""
    rng = random.Random(18)
    until, n_inputs, slowest_s = time.monotonic() + BODY_SECONDS, 0, 0.0
    while time.monotonic() < until:
        data = damaged_body(FILES[n_inputs % len(FILES)].read_bytes(), rng)
        began = time.monotonic()
        try:
            with Original(data, max_pixels=MAX_PIXELS) as original:
                original.global_image(PixelBudget(32, 32))
                original.patch((0, 0, *original.size), PixelBudget(64, 64))
        except BadImageError:
            pass
        slowest_s = max(slowest_s, time.monotonic() - began)
        n_inputs += 1
    print(f"\n{n_inputs} damaged files, the slowest {slowest_s:.2f} s")
    assert n_inputs > 200
    assert slowest_s < 10
