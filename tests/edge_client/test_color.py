"""Every mode that Pillow decodes becomes RGB as a viewer would show it."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageCms

from secondglance.errors import BadImageError
from secondglance.pictures.color import to_srgb


def one_pixel(mode: str, value: object) -> Image.Image:
    return Image.new(mode, (1, 1), value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (one_pixel("RGB", (1, 2, 3)), (1, 2, 3)),
        (one_pixel("RGBX", (1, 2, 3, 255)), (1, 2, 3)),
        (one_pixel("L", 77), (77, 77, 77)),
        (one_pixel("1", 1), (255, 255, 255)),
        (one_pixel("RGBA", (200, 0, 0, 0)), (255, 255, 255)),
        (one_pixel("RGBA", (200, 0, 0, 255)), (200, 0, 0)),
        (one_pixel("LA", (0, 51)), (204, 204, 204)),
        (one_pixel("I;16", 0x1234), (0x12, 0x12, 0x12)),
        (one_pixel("I;16", 0xFFFF), (255, 255, 255)),
        (one_pixel("I", 0x8000), (128, 128, 128)),
        (one_pixel("CMYK", (0, 0, 0, 255)), (0, 0, 0)),
        (one_pixel("CMYK", (0, 0, 0, 0)), (255, 255, 255)),
        (one_pixel("YCbCr", (255, 128, 128)), (255, 255, 255)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_each_mode_becomes_the_rgb_that_a_viewer_shows(
    image: Image.Image, expected: tuple[int, int, int]
) -> None:
    converted = to_srgb(image)
    assert converted.mode == "RGB"
    assert converted.getpixel((0, 0)) == expected


def test_a_palette_is_resolved_and_its_transparent_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 1
    converted = to_srgb(image)
    assert [converted.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]


def test_an_embedded_profile_changes_the_colours_and_srgb_does_not() -> None:
    image = Image.new("RGB", (4, 4), (200, 30, 60))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    assert to_srgb(image, srgb.tobytes()).getpixel((0, 0)) == (200, 30, 60)
    in_lab = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    assert in_lab is not None
    back = to_srgb(in_lab, lab.tobytes()).getpixel((0, 0))
    assert isinstance(back, tuple)
    assert max(abs(a - b) for a, b in zip(back, (200, 30, 60), strict=True)) <= 4


@pytest.mark.parametrize(
    "profile", [b"", b"junk", b"\0" * 128, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()]
)
def test_a_broken_or_unfitting_profile_is_ignored(profile: bytes) -> None:
    assert to_srgb(Image.new("RGB", (1, 1), (9, 8, 7)), profile).getpixel((0, 0)) == (9, 8, 7)


def test_nothing_of_the_files_metadata_survives() -> None:
    image = Image.new("RGB", (1, 1))
    image.info = {"comment": b"secret", "icc_profile": b"junk", "exif": b"Exif\0\0", "dpi": (72, 72)}
    assert to_srgb(image).info == {}


def test_a_float_picture_is_refused_with_advice() -> None:
    with pytest.raises(BadImageError, match="float"):
        to_srgb(Image.new("F", (1, 1)))


def test_sixteen_bit_grey_is_scaled_from_a_real_file() -> None:
    """Pillow's own conversion clips at 255, which turns every 16-bit picture white."""
    image = Image.new("I;16", (256, 1))
    for x in range(256):
        image.putpixel((x, 0), x * 257)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    reopened = Image.open(buffer)
    assert reopened.mode.startswith("I")
    converted = to_srgb(reopened)
    assert [converted.getpixel((x, 0)) for x in (0, 17, 255)] == [(0, 0, 0), (17, 17, 17), (255, 255, 255)]
