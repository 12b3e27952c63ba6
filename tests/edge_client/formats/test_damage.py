"""Damage at random places: of side data it spoils nothing, of the body only our own errors come out."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from secondglance import BadImageError
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original
from secondglance_server.inference.intake import decode, patch_limits
from secondglance_server.settings import ServerSettings
from tests.edge_client.formats.variants import ORIENTATION_XMP, SIZE, chunk
from tests.hardening.wire import Memory
from tests.needs import needs_linux

FILES = sorted((Path(__file__).parent / "files").iterdir())
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LIMITS = patch_limits(ServerSettings())
BODY_SECONDS = 20
MAX_PIXELS = 4_000_000
MOST_MB = 300


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


def with_side_data(kind: str, image: Image.Image) -> tuple[bytes, list[bytes]]:
    """Return a file with EXIF, XMP and a profile (a GIF: XMP), and the bytes of each as they lie in it."""
    tags = Image.Exif()
    tags[0x010F] = "maker" * 12
    exif, xmp, profile = tags.tobytes(), b"<x:xmpmeta>" + b"x" * 80, SRGB
    if kind == "GIF":
        extension = b"!\xff\x0bXMP DataXMP" + bytes([len(xmp)]) + xmp + b"\0"
        plain = _encoded(image, kind)
        palette_end = 13 + 3 * 2 ** ((plain[10] & 7) + 1)
        return plain[:palette_end] + extension + plain[palette_end:], [xmp]
    if kind == "TIFF":
        maker = "maker" * 12
        made = _encoded(image, kind, icc_profile=profile, tiffinfo={700: xmp, 0x010F: maker})
        return made, [maker.encode(), xmp, profile]
    if kind == "HEIC":
        heif = pillow_heif.from_pillow(image)
        heif.info["icc_profile"] = profile
        buffer = io.BytesIO()
        heif.save(buffer, quality=90, exif=exif, xmp=xmp)
        return buffer.getvalue(), [exif[6:], xmp, profile]
    made = _encoded(image, kind, exif=exif, xmp=xmp, icc_profile=profile, quality=90)
    return made, [exif[6:], xmp, profile]


@pytest.mark.parametrize("kind", ["AVIF", "HEIC", "TIFF", "GIF"])
def test_damaged_side_data_of_other_formats_spoil_no_picture(kind: str) -> None:
    """I4, I5: EXIF, XMP and profiles inside boxes, tags and extensions, written over with junk."""
    rng = random.Random(kind)
    image = Image.effect_noise(SIZE, 60).convert("RGB")
    data, payloads = with_side_data(kind, image)
    with Original(data) as sound:
        wanted = sound.crop((0, 0, *SIZE)).tobytes()
    tried = set()
    for number in range(120):
        payload = payloads[number % len(payloads)]
        at, junk = data.index(payload), side_data(rng)[: len(payload)].ljust(len(payload), b"\0")
        made = data[:at] + junk + data[at + len(payload) :]
        tried.add(made)
        with Original(made) as found:
            assert found.crop((0, 0, *SIZE)).tobytes() == wanted, made
    assert len(tried) > 100


def damaged_body(data: bytes, rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 40))):
        at = rng.randrange(len(made))
        made[at : at + rng.randint(1, 4)] = rng.randbytes(rng.randint(0, 4))
    return bytes(made[: rng.choice((len(made), rng.randrange(1, len(made))))])


@needs_linux
def test_damage_of_every_format_gives_a_picture_or_a_bad_image() -> None:
    """I1: open, reduce and crop raise BadImageError alone; no input takes ten seconds or 300 MB."""
    rng = random.Random(18)
    sound = [path.read_bytes() for path in FILES]
    sound += [_encoded(Image.effect_noise(SIZE, 60), kind) for kind in ("BMP", "PPM")]
    Image.init()  # or the first input would pay for the decoders' code
    until, n_inputs, slowest_s = time.monotonic() + BODY_SECONDS, 0, 0.0
    memory = Memory(os.getpid())
    while time.monotonic() < until:
        data = damaged_body(sound[n_inputs % len(sound)], rng)
        began = time.monotonic()
        try:
            with Original(data, max_pixels=MAX_PIXELS) as original:
                original.global_image(PixelBudget(32, 32))
                original.patch((0, 0, *original.size), PixelBudget(64, 64))
        except BadImageError:
            pass
        slowest_s = max(slowest_s, time.monotonic() - began)
        n_inputs += 1
    growth_mb = memory.growth_mb
    print(f"\n{n_inputs} damaged files, the slowest {slowest_s:.2f} s, at most {growth_mb:.0f} MB")
    assert n_inputs > 200
    assert slowest_s < 10
    assert growth_mb < MOST_MB


MEASURE = """
import json, os, sys
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original
from tests.hardening.wire import Memory
grown = []
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    memory = Memory(os.getpid())
    with Original(data, max_pixels=4_000_000) as original:
        original.global_image(PixelBudget(64, 64))
        original.crop((0, 0, *original.size))
    grown.append(memory.growth_mb)
print(json.dumps(grown))
"""


@needs_linux
def test_the_largest_pictures_that_are_fuzzed_take_less_than_300_mb(tmp_path: Path) -> None:
    """Four megapixels of every format with all that makes them costly; the fuzzer's own limit is above it."""
    rgba = Image.effect_noise((2000, 2000), 60).convert("RGBA")
    heic = io.BytesIO()
    pillow_heif.from_pillow(rgba).save(heic, quality=50)
    files = {
        "png": _encoded(rgba, "PNG", compress_level=1),
        "jpg": _encoded(rgba.convert("CMYK"), "JPEG", progressive=True),
        "webp": _encoded(rgba, "WEBP", method=0),
        "gif": _encoded(rgba.convert("P"), "GIF"),
        "tif": _encoded(rgba, "TIFF", compression="tiff_lzw"),
        "bmp": _encoded(rgba, "BMP"),
        "ppm": _encoded(rgba.convert("RGB"), "PPM"),
        "avif": _encoded(rgba, "AVIF", speed=10),
        "heic": heic.getvalue(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    printed = subprocess.run(
        [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in files)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},  # what was freed is not there any more
        capture_output=True,
        check=True,
    ).stdout
    grown = dict(zip(files, json.loads(printed), strict=True))
    print({name: round(mb) for name, mb in grown.items()})
    assert {name: mb for name, mb in grown.items() if not 4 < mb < MOST_MB} == {}
