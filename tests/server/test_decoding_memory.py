"""Decoding takes no more memory than is reckoned by pixels, and all at a time no more than the bound."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from secondglance_protocol.wire import ImageSize
from secondglance_server.inference.decoding import Decoders
from secondglance_server.inference.intake import BYTES_PER_PIXEL, DecodingMemory, decode, patch_limits
from secondglance_server.inference.ticket import Ticket
from secondglance_server.settings import ServerSettings
from tests.needs import needs_linux

ROOT = Path(__file__).parents[2]
SIDE = 1600
MARGIN_MB = 4  # strips, tables, and what a heap does not give back
KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("JPEG", "L", {}),
    ("PNG", "RGB", {"compress_level": 1}),
    ("PNG", "RGBA", {"compress_level": 1}),
    ("PNG", "LA", {"compress_level": 1}),
    ("PNG", "P", {"transparency": bytes(range(256))}),
    ("PNG", "L", {"transparency": 7}),
    ("PNG", "1", {}),
    ("WEBP", "RGB", {"method": 0}),
    ("WEBP", "RGBA", {"method": 0}),
    ("WEBP", "RGBA", {"method": 0, "lossless": True, "quality": 0}),
]


def picture(mode: str, side: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (side // 20, side // 20, 4), dtype=np.uint8)
    image = Image.fromarray(noise, "RGBA").resize((side, side))
    if mode in ("RGBA", "LA"):
        return image.convert(mode)
    return image.convert("L" if mode == "P" else "RGB").convert(mode)


def file_of(format_name: str, mode: str, options: dict[str, Any], side: int) -> bytes:
    buffer = io.BytesIO()
    picture(mode, side).save(buffer, format_name, **options)
    return buffer.getvalue()


def whole(data: bytes) -> np.ndarray[Any, Any]:
    """Decoded without strips."""
    image = Image.open(io.BytesIO(data))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


@pytest.mark.parametrize(("format_name", "mode", "options"), KINDS)
def test_strips_make_no_difference(format_name: str, mode: str, options: dict[str, Any]) -> None:
    data = file_of(format_name, mode, options, 300)  # 90,000 pixels: two strips
    np.testing.assert_array_equal(decode(data, patch_limits(ServerSettings())), whole(data))


MEASURE = """
import json, os, sys
from secondglance_server.inference.intake import decode, patch_limits
from secondglance_server.settings import ServerSettings
from tests.hardening.wire import Memory
limits = patch_limits(ServerSettings())
grown = []
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    memory = Memory(os.getpid())
    decode(data, limits)
    grown.append(memory.growth_mb)
print(json.dumps(grown))
"""


@needs_linux
def test_a_pixel_costs_no_more_than_is_reckoned(tmp_path: Path) -> None:
    """Peaks of a process that decodes 2.56 megapixels. A WebP with alpha took 30 bytes for each pixel."""
    paths = []
    for side in (40, SIDE):  # first of all small ones: they import
        for number, kind in enumerate(KINDS):
            paths.append(tmp_path / f"{side}-{number}")
            paths[-1].write_bytes(file_of(*kind, side))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)],
        cwd=ROOT,
        # What is freed goes back at once, so that the next one cannot hide in it (glibc).
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "1000000"},
        check=True,
        capture_output=True,
        text=True,
    )
    grown_mb = json.loads(done.stdout)[len(KINDS) :]
    per_pixel = [(kind, round(mb * 2**20 / SIDE**2, 1)) for kind, mb in zip(KINDS, grown_mb, strict=True)]
    print(*per_pixel, sep="\n")
    margin = MARGIN_MB * 2**20 / SIDE**2
    assert [each for each in per_pixel if not 3 <= each[1] <= BYTES_PER_PIXEL[each[0][0]] + margin] == []


def test_images_wait_for_room_and_one_that_is_too_large_is_decoded_alone() -> None:
    memory = DecodingMemory(100 * BYTES_PER_PIXEL["PNG"])
    small, large = ImageSize(width=6, height=10), ImageSize(width=60, height=10)
    began, end = threading.Semaphore(0), threading.Semaphore(0)
    at_once, most = set(), []
    guard = threading.Lock()

    def work(name: int, size: ImageSize) -> None:
        with memory.room_for("PNG", size):
            with guard:
                at_once.add(name)
                most.append(frozenset(at_once))
            began.release()
            assert end.acquire(timeout=10)
            with guard:
                at_once.remove(name)

    sizes = [small, small, large, ImageSize(width=4, height=10)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(work, name, size) for name, size in enumerate(sizes)]
        for _ in sizes:
            assert began.acquire(timeout=10)
            end.release()
        for job in jobs:
            job.result(10)
    assert all(len(each) == 1 or sum(sizes[n].width for n in each) <= 10 for each in most)
    assert {name for each in most for name in each} == {0, 1, 2, 3}


def test_room_is_given_back_after_a_failure() -> None:
    memory = DecodingMemory(100)
    size = ImageSize(width=1000, height=1000)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), memory.room_for("JPEG", size):
            raise ZeroDivisionError


async def test_a_small_picture_does_not_wait_for_large_ones() -> None:
    """Criterion 4 of the strangers: large pictures that fill all threads and all memory hold up no other."""
    settings = ServerSettings(decode_threads=1)
    decoders, limits, ticket = Decoders(settings), patch_limits(settings), Ticket(deadline=math.inf)
    large, small = (file_of("PNG", "RGB", {}, side) for side in (SIDE, 40))

    async def shape_of(data: bytes) -> tuple[int, ...]:
        return (await decoders.decode(data, limits, ticket, lambda _: None)).shape

    try:
        with decoders._large_memory.room_for("WEBP", ImageSize(width=5000, height=5000)):
            waiting = [asyncio.create_task(shape_of(large)) for _ in range(3)]
            for _ in range(5):
                assert await asyncio.wait_for(shape_of(small), 10) == (40, 40, 3)
            assert not any(task.done() for task in waiting)
        assert await asyncio.gather(*waiting) == [(SIDE, SIDE, 3)] * 3
    finally:
        decoders.close()
