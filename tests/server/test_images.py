"""Intake: what a decoder may see, what comes out, and what never changes in the process."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import ImageSize
from secondglance_server.errors import ProblemError
from secondglance_server.inference.intake import ImageLimits, decode
from tests.server.exchange import encode

LIMITS = ImageLimits(max_pixels=4_000_000, min_side=2, max_side=8192, max_aspect_ratio=200)


def test_pixels_come_out_as_they_went_in() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    decoded = decode(buffer.getvalue(), LIMITS)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("format_name", "mode", "color"),
    [
        ("PNG", "L", 128),
        ("PNG", "1", 1),
        ("PNG", "P", 3),
        ("PNG", "LA", (128, 255)),
        ("PNG", "RGBA", (10, 20, 30, 255)),
        ("JPEG", "L", 128),
        ("JPEG", "CMYK", (0, 10, 20, 30)),
        ("WEBP", "RGB", (10, 20, 30)),
        ("WEBP", "RGBA", (10, 20, 30, 255)),
    ],
)
def test_every_mode_becomes_rgb(format_name: str, mode: str, color: object) -> None:
    assert decode(encode(20, 10, format_name, mode, color), LIMITS).shape == (10, 20, 3)  # type: ignore[arg-type]


def test_transparency_is_laid_on_white() -> None:
    """Not on black: colours that a viewer does not see must not reach the model."""
    clear_red = encode(4, 4, "PNG", "RGBA", (255, 0, 0, 0))  # type: ignore[arg-type]
    assert (decode(clear_red, LIMITS) == 255).all()


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_bytes_after_the_image_are_ignored(format_name: str) -> None:
    """Phones append previews and films; archives append themselves. None of it is looked at."""
    data = encode(20, 10, format_name)
    polyglot = data + b"PK\x03\x04" + b"\xff\xd8\xff" + bytes(1000)
    np.testing.assert_array_equal(decode(polyglot, LIMITS), decode(data, LIMITS))


def test_a_jpeg_with_a_second_picture_behind_it_is_its_first() -> None:
    buffer = io.BytesIO()
    first, second = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert decode(buffer.getvalue(), LIMITS).shape == (10, 20, 3)


def test_a_palette_that_comes_after_the_pixels_is_the_clients_fault() -> None:
    """Pillow asserts that there is one: found by the fuzzer, it was answered with 500."""
    corpus = Path(__file__).parents[1] / "fuzz" / "corpus" / "image"
    with pytest.raises(ProblemError) as caught:
        decode((corpus / "palette-behind-pixels.png").read_bytes(), LIMITS)
    assert caught.value.code == ErrorCode.UNREADABLE_IMAGE


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_orientations_that_turn_nothing_are_taken(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(encode(20, 10, "JPEG", exif=exif), LIMITS).shape == (10, 20, 3)


def test_the_size_is_checked_before_anything_is_decoded() -> None:
    truncated = encode(100, 50)[:60]  # decoding this would fail in another way

    def refuse(size: ImageSize) -> None:
        assert (size.width, size.height) == (100, 50)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        decode(truncated, LIMITS, refuse)


def test_pillows_own_limit_stays_as_it_is() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode(encode(20, 10), LIMITS)
    assert before == Image.MAX_IMAGE_PIXELS is not None


@settings(max_examples=150, deadline=None)
@given(
    format_name=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    position=st.integers(0, 400),
    junk=st.binary(min_size=1, max_size=12),
)
def test_broken_bytes_are_a_picture_or_a_problem_and_nothing_else(
    format_name: str, position: int, junk: bytes
) -> None:
    data = bytearray(encode(24, 16, format_name))
    data[position : position + len(junk)] = junk
    try:
        assert decode(bytes(data), LIMITS).ndim == 3
    except ProblemError as problem:
        assert problem.code  # noqa: PT017  # either outcome is right
