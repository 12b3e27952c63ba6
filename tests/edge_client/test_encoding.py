"""What is sent is small, plain and in a format that the server takes."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from secondglance.errors import BadImageError
from secondglance.pictures.encoding import Recipe, encode

ALL = ("image/jpeg", "image/png", "image/webp")
PLENTY = 10**9


def jpeg_segments(data: bytes) -> list[int]:
    """The markers before the first scan."""
    markers, at = [], 2
    while data[at + 1] != 0xDA:
        markers.append(data[at + 1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return markers


@pytest.mark.parametrize(
    ("wanted", "accepted", "kind"),
    [
        ("jpeg", ALL, "JPEG"),
        ("webp", ALL, "WEBP"),
        ("png", ALL, "PNG"),
        ("webp", ("image/jpeg",), "JPEG"),
        ("jpeg", ("image/png", "image/webp"), "WEBP"),
        ("jpeg", ("image/png",), "PNG"),
    ],
)
def test_the_format_is_the_wanted_one_or_one_that_the_server_takes(
    pictures, wanted, accepted, kind: str
) -> None:
    encoded = encode(pictures.noise((64, 48)), Recipe(wanted), accepted=accepted, max_bytes=PLENTY)
    assert encoded is not None
    reopened = Image.open(io.BytesIO(encoded.data))
    assert reopened.format == kind
    assert encoded.media_type == Image.MIME[kind]
    assert encoded.size == reopened.size == (64, 48)
    assert encoded.file_suffix == {"JPEG": "jpg", "WEBP": "webp", "PNG": "png"}[kind]


def test_a_server_that_takes_nothing_we_write_is_an_error(pictures) -> None:
    with pytest.raises(BadImageError, match="accepts none"):
        encode(pictures.noise((8, 8)), Recipe(), accepted=(), max_bytes=PLENTY)


def test_a_jpeg_holds_pixels_and_tables_only(pictures) -> None:
    """APP0 is JFIF's own header; no other application segment and no comment."""
    encoded = encode(pictures.noise((64, 48)), Recipe(), accepted=ALL, max_bytes=PLENTY)
    assert encoded is not None
    markers = jpeg_segments(encoded.data)
    assert [marker for marker in markers if 0xE0 <= marker <= 0xEF or marker == 0xFE] == [0xE0]


@pytest.mark.parametrize(("subsampling", "factors"), [("4:2:0", 0x22), ("4:4:4", 0x11), ("4:2:2", 0x21)])
def test_subsampling_is_as_asked(pictures, subsampling, factors: int) -> None:
    encoded = encode(
        pictures.noise((64, 48)), Recipe(subsampling=subsampling), accepted=ALL, max_bytes=PLENTY
    )
    assert encoded is not None
    frame = encoded.data.index(b"\xff\xc2")  # progressive frame header
    assert encoded.data[frame + 11] == factors


@pytest.mark.parametrize("wanted", ["jpeg", "webp"])
def test_quality_falls_until_it_fits_and_no_further(pictures, wanted) -> None:
    image = pictures.noise((320, 240))
    best = encode(image, Recipe(wanted), accepted=ALL, max_bytes=PLENTY)
    worst = encode(image, Recipe(wanted, quality=30), accepted=ALL, max_bytes=PLENTY)
    assert best is not None
    assert worst is not None
    between = encode(image, Recipe(wanted), accepted=ALL, max_bytes=(len(best.data) + len(worst.data)) // 2)
    assert between is not None
    assert len(worst.data) < len(between.data) <= (len(best.data) + len(worst.data)) // 2
    assert (best.quality, worst.quality) == (85, 30)
    assert 30 < between.quality < 85
    tight = encode(image, Recipe(wanted), accepted=ALL, max_bytes=len(worst.data))
    assert tight == worst
    assert encode(image, Recipe(wanted), accepted=ALL, max_bytes=len(worst.data) - 1) == worst


def test_png_has_no_quality_to_lower(pictures) -> None:
    image = pictures.noise((64, 48))
    whole = encode(image, Recipe("png"), accepted=ALL, max_bytes=PLENTY)
    assert whole is not None
    assert whole.quality is None
    assert encode(image, Recipe("png"), accepted=ALL, max_bytes=len(whole.data) - 1) == whole
