"""Headers whose sides are nothing, or more than any picture has: one bad picture each, and the run goes on.

I10: a side of 1,000,001 pixels was a pydantic error, taken for wrong usage, and ended a batch.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from secondglance import BadImageError
from secondglance.cli import app
from secondglance.pictures.original import Original
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.errors import ProblemError
from secondglance_server.inference.intake import decode, patch_limits
from secondglance_server.settings import ServerSettings
from tests.edge_client.formats.test_one_bad_among_good import picture
from tests.edge_client.formats.variants import tiff

SIZE = (48, 36)
SIDES = (0, 1_000_001, 2**31 - 1, 2**31, 2**32 - 1)


def _png(width: int, height: int) -> bytes:
    data = picture("PNG", SIZE)
    header = b"IHDR" + struct.pack(">2I", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def _jpeg(width: int, height: int) -> bytes:
    data = bytearray(picture("JPEG", SIZE))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">2H", height, width)
    return bytes(data)


def _webp(width: int, height: int) -> bytes:
    """Return the extended form, whose canvas has sides of 1 to 2**24 pixels."""
    inner = picture("WEBP", SIZE)[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(width: int, height: int) -> bytes:
    return tiff(width, height, bytes(99), {258: (3, [8]), 262: (3, [1]), 277: (3, [1])})


def _gif(width: int, height: int) -> bytes:
    data = bytearray(picture("GIF", SIZE))
    at = data.rindex(b",\0\0\0\0", 0, 800) + 5  # of the frame, which may be larger than the screen
    for place in (6, at):
        data[place : place + 4] = struct.pack("<2H", width, height)
    return bytes(data)


def _bmp(width: int, height: int) -> bytes:
    data = picture("BMP", SIZE)
    return data[:18] + struct.pack("<2I", width, height) + data[26:]


def _ppm(width: int, height: int) -> bytes:
    return b"P6 %d %d 255\n" % (width, height) + bytes(99)


def _of_boxes(kind: str) -> Callable[[int, int], bytes]:
    def make(width: int, height: int) -> bytes:
        data = bytearray(picture(kind, SIZE))
        at = -1
        while (at := data.find(b"ispe", at + 1)) >= 0:
            data[at + 8 : at + 16] = struct.pack(">2I", width, height)
        return bytes(data)

    return make


MAKERS: dict[str, tuple[Callable[[int, int], bytes], tuple[int, ...]]] = {
    "png": (_png, SIDES),
    "jpg": (_jpeg, (0, 2**16 - 1)),
    "webp": (_webp, (1_000_001, 2**24)),
    "tif": (_tiff, SIDES),
    "gif": (_gif, (0, 2**16 - 1)),
    "bmp": (_bmp, SIDES),
    "ppm": (_ppm, (*SIDES, 2**32, 2**64, 10**4000)),
    "avif": (_of_boxes("AVIF"), SIDES),
    "heic": (_of_boxes("HEIC"), SIDES),
}


def lies(kind: str) -> dict[str, bytes]:
    """Return files of one format: each side, or both, is what no picture has."""
    make, sides = MAKERS[kind]
    made = {f"{min(side, 10**20)}-square.{kind}": make(side, side) for side in sides}
    if kind in ("jpg", "gif"):
        sides = (0,)  # a picture may have a single side of 65,535
    for side in sides:
        made[f"{min(side, 10**20)}-wide.{kind}"] = make(side, SIZE[1])
        if (kind, side) != ("bmp", 2**32 - 1):  # which is -1: one row, from the top
            made[f"{min(side, 10**20)}-high.{kind}"] = make(SIZE[0], side)
    return made


@pytest.fixture(scope="module")
def url(serve: Any) -> str:
    url: str = serve(FakeEngine()).url
    return url


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize("kind", MAKERS)
def test_i10_a_side_that_no_picture_has_is_a_bad_image(kind: str) -> None:
    """I10, and 0, 2**31 and 2**32 - 1 beside it, in each format that can say so."""
    tried = lies(kind)
    assert len(tried) >= 4
    for name, data in tried.items():
        with pytest.raises(BadImageError) as caught:
            Original(data)
        assert len(str(caught.value)) < 300, name


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_i10_a_decoded_picture_without_pixels_is_a_bad_image(size: tuple[int, int]) -> None:
    """I10: a pydantic error, once it was to be sent."""
    with pytest.raises(BadImageError, match="no pixels"):
        Original(Image.new("L", size))


@pytest.mark.parametrize("kind", MAKERS)
def test_i10_ask_ends_as_documented(
    kind: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDGLANCE_URL", url)
    for name, data in lies(kind).items():
        (tmp_path / name).write_bytes(data)
        ran = run("ask", tmp_path / name, "What?")
        assert (ran.exit_code, ran.stdout) == (65, ""), (name, ran.output)
        assert ran.stderr.startswith("secondglance: ")
        assert ran.stderr.count("\n") == 1


def test_i10_a_batch_goes_on(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: it stopped; all formats at a time, with good pictures before and behind each."""
    monkeypatch.setenv("SECONDGLANCE_URL", url)
    bad: set[str] = set()
    for number, kind in enumerate(MAKERS):
        for name, data in lies(kind).items():
            (tmp_path / f"{number}-{name}").write_bytes(data)
            bad.add(f"{number}-{name}")
        (tmp_path / f"{number}.png").write_bytes(picture("PNG", SIZE, number))
    ran = run("batch", tmp_path, "-q", "What?", "--json")
    assert ran.exit_code == 1, ran.output
    assert f"{len(bad)} failed, {len(MAKERS)} answered" in ran.stderr
    answered = {Path(json.loads(line)["path"]).name for line in ran.stdout.splitlines()}
    assert answered == {f"{number}.png" for number in range(len(MAKERS))}
    assert all(sum(f"/{name}: " in line for line in ran.stderr.splitlines()) == 1 for name in bad)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_i10_the_server_refuses_such_a_size(kind: str) -> None:
    for data in lies(kind).values():
        with pytest.raises(ProblemError) as caught:
            decode(data, patch_limits(ServerSettings()))
        assert caught.value.code in ("image_too_large", "image_shape_refused", "unreadable_image")
