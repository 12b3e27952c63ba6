"""The original: what is cropped, shown and refused. References are Pillow's own full decode."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from secondglance.errors import BadImageError
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.color import to_srgb
from secondglance.pictures.original import Original
from tests.needs import needs_linux

ODD_SIZES = [(1, 1), (2, 2), (1, 4000), (4000, 1), (333, 517)]


def crop_by_full_decode(data: bytes, box: tuple[int, int, int, int]) -> Image.Image:
    return to_srgb(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).crop(box))


def difference(first: Image.Image, second: Image.Image) -> float:
    """Root mean square over the pixels, in grey levels."""
    return ImageStat.Stat(ImageChops.difference(first.convert("L"), second.convert("L"))).rms[0]


def boxes_of(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The whole, each corner, the middle, one pixel."""
    width, height = size
    w, h = max(1, width // 3), max(1, height // 3)
    x, y = (width - w) // 2, (height - h) // 2
    corners = [
        (0, 0, w, h),
        (width - w, 0, width, h),
        (0, height - h, w, height),
        (width - w, height - h, width, height),
    ]
    return [(0, 0, width, height), *corners, (x, y, x + w, y + h), (width - 1, height - 1, width, height)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_a_crop_equals_that_of_the_transposed_original(
    pictures, kind: str, orientation: int, size: tuple[int, int]
) -> None:
    """The box contract, on files: EXIF 1-8, odd sizes, formats that keep EXIF in different places."""
    data = pictures.encode(pictures.noise(size), kind, orientation=orientation)
    with Original(data) as original:
        assert original.size == ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size
        for box in boxes_of(original.size):
            assert original.crop(box).tobytes() == crop_by_full_decode(data, box).tobytes(), box


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 2}),
        ("RGB", {"progressive": True}),
        ("L", {}),
        ("CMYK", {}),
    ],
    ids=str,
)
def test_every_kind_of_jpeg_crops_exactly(pictures, mode: str, options: dict[str, object]) -> None:
    data = pictures.encode(pictures.noise((1000, 700), mode=mode), "JPEG", orientation=6, **options)
    with Original(data) as original:
        for box in boxes_of(original.size):
            assert original.crop(box).tobytes() == crop_by_full_decode(data, box).tobytes(), box


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_every_mode_of_png_crops_exactly(pictures, mode: str) -> None:
    base = (
        Image.linear_gradient("L").convert("I;16")
        if mode == "I;16"
        else pictures.noise((256, 256)).convert(mode)
    )
    data = pictures.encode(base, "PNG")
    with Original(data) as original:
        for box in boxes_of(original.size):
            assert original.crop(box).tobytes() == crop_by_full_decode(data, box).tobytes(), box


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_global_image_looks_like_the_upright_original(pictures, kind: str, orientation: int) -> None:
    """Reduced decoding must neither turn, shift nor blur: close to a full decode followed by LANCZOS."""
    data = pictures.encode(pictures.noise((1601, 1203)), kind, orientation=orientation)
    full = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    with Original(data) as original:
        small = original.global_image(PixelBudget(224, 224))
    reference = full.resize(small.size, Image.Resampling.LANCZOS)
    assert max(small.size) == 224
    assert difference(small, reference) < 3.0 < 6.0 < difference(small, ImageChops.offset(reference, 1, 0))


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_a_global_image_exists_for_every_odd_size(pictures, size: tuple[int, int]) -> None:
    with Original(pictures.photo(size)) as original:
        image = original.global_image(PixelBudget(448, 448, min_side=2, max_aspect=200))
    assert image.mode == "RGB"
    assert min(image.size) >= 2
    assert max(image.size) <= 448


def test_a_patch_within_the_budget_is_the_crop_and_a_larger_one_is_reduced(pictures) -> None:
    with Original(pictures.photo((2000, 1500), orientation=8)) as original:
        box = (100, 200, 700, 800)
        assert original.patch(box, PixelBudget(600, 600)).tobytes() == original.crop(box).tobytes()
        reduced = original.patch((1, 3, 1400, 1999), PixelBudget(300, 300))
        reference = original.crop((1, 3, 1400, 1999)).resize(reduced.size, Image.Resampling.LANCZOS)
    assert max(reduced.size) == 300
    assert (
        difference(reduced, reference) < 5.0 < 10.0 < difference(reduced, ImageChops.offset(reference, 1, 0))
    )


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (-1, 0, 5, 5), (0, 0, 641, 5), (5, 5, 4, 9)], ids=str)
def test_a_box_outside_the_picture_is_refused(pictures, box: tuple[int, int, int, int]) -> None:
    with Original(pictures.photo()) as original, pytest.raises(BadImageError, match="box"):
        original.crop(box)


def test_path_bytes_file_object_and_pil_image_are_the_same_picture(pictures, tmp_path: Path) -> None:
    data = pictures.photo((300, 200), orientation=6)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    crops = set()
    for source in (
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        Image.open(path),
    ):
        with Original(source) as original:
            assert original.size == (200, 300)
            crops.add(original.crop((10, 20, 110, 150)).tobytes())
    assert len(crops) == 1


def test_the_callers_pil_image_is_left_open_and_untouched(pictures) -> None:
    image = pictures.noise((50, 40))
    image.info["note"] = "mine"
    with Original(image) as original:
        original.global_image(PixelBudget(10, 10))
        assert original.encoded_bytes is None
        assert original.content_key() is None
    assert image.size == (50, 40)
    assert image.info == {"note": "mine"}
    assert image.getpixel((0, 0)) is not None


def test_the_content_key_names_the_files_bytes(pictures) -> None:
    with (
        Original(pictures.photo(seed=1)) as first,
        Original(pictures.photo(seed=1)) as same,
        Original(pictures.photo(seed=2)) as other,
    ):
        assert first.content_key() == same.content_key() != other.content_key()


def test_the_first_frame_of_an_animation_is_used(pictures) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = pictures.encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Original(data) as original:
        assert original.crop((0, 0, 1, 1)).getpixel((0, 0)) == (255, 0, 0)


def test_a_multi_picture_jpeg_of_a_phone_is_its_first_picture(pictures) -> None:
    first, second = pictures.noise((64, 48), seed=1), pictures.noise((64, 48), seed=2)
    data = pictures.encode(first, "MPO", save_all=True, append_images=[second])
    with Original(data) as original:
        assert original.format == "MPO"
        assert original.crop((0, 0, 64, 48)).tobytes() == crop_by_full_decode(data, (0, 0, 64, 48)).tobytes()


def test_i8_an_orientation_that_only_xmp_states_is_not_applied(pictures) -> None:
    """I8: the edge turned such pictures and the server refused them; viewers follow EXIF alone."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    with Original(pictures.encode(pictures.noise((30, 20)), "JPEG", xmp=xmp)) as original:
        assert original.size == (30, 20)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xd8\xff\xe0 no jpeg",
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"GIF89a",
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadImageError):
        Original(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_refused_rather_than_sent_half_grey(pictures, kind: str) -> None:
    data = pictures.encode(pictures.noise((640, 480)), kind)
    with pytest.raises(BadImageError), Original(data[: len(data) // 2]) as original:
        original.global_image(PixelBudget(100, 100))


def test_missing_files_and_text_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="cannot read"):
        Original(tmp_path / "nowhere.jpg")
    with pytest.raises(BadImageError, match="binary"):
        Original(io.StringIO("text"))  # type: ignore[arg-type]


def test_the_pixel_limit_is_ours_and_is_read_from_the_header(pictures) -> None:
    with pytest.raises(BadImageError, match="more than the limit"):
        Original(pictures.photo((101, 100)), max_pixels=10_000)
    with Original(pictures.photo((100, 100)), max_pixels=10_000) as original:
        assert original.size == (100, 100)


def test_a_bomb_is_refused_before_it_is_decoded(pictures) -> None:
    """16384x16384 in one bit a pixel: 33 kB of file that would decode to 268 million pixels."""
    bomb = pictures.encode(Image.new("1", (16_384, 16_384)), "PNG")
    with pytest.raises(BadImageError, match="more than the limit"):
        Original(bomb)


PEAK_GROWTH = """
import sys
from pathlib import Path
from secondglance.pictures.original import Original

def peak_kib():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l).split()[1])

with Original(sys.argv[2]) as small:
    small.crop((0, 0, 8, 8))  # loads every module that a crop needs
before = peak_kib()
with Original(sys.argv[1]) as original:
    for top in (0, 1900, 3900):
        original.crop((5500, top, 5600, top + 100))
print((peak_kib() - before) * 1024)
"""


@needs_linux
@pytest.mark.parametrize("colour", ["grain", "flat"])
def test_a_crop_costs_the_memory_of_its_rows(pictures, tmp_path: Path, colour: str) -> None:
    """24 megapixels are 96 MB in Pillow; 100 rows of them are 2.4 MB. A flat picture is few bytes to read,
    and reading is when memory is given back."""
    image = Image.new("RGB", (6000, 4000), "teal")
    if colour == "grain":
        image = pictures.noise((1500, 1000)).resize((6000, 4000))
    path = tmp_path / "large.jpg"
    path.write_bytes(pictures.encode(image, "JPEG", quality=80))
    small = tmp_path / "small.jpg"
    small.write_bytes(pictures.photo((8, 8)))
    command = [sys.executable, "-c", PEAK_GROWTH, str(path), str(small)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 16_000_000


HUNDRED_MEGAPIXELS = """
import sys, warnings
warnings.simplefilter("error")
from PIL import Image
limit = Image.MAX_IMAGE_PIXELS
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original
with Original(sys.argv[1]) as original:
    assert original.size == (9000, 12000), original.size
    assert original.global_image(PixelBudget(448, 448)).size == (336, 448)
    crop = original.crop((8400, 11500, 8900, 11900))
    assert crop.size == (500, 400)
    middle = crop.getpixel((250, 200))
    assert max(abs(a - b) for a, b in zip(middle, (250, 10, 10))) < 8, middle
assert Image.MAX_IMAGE_PIXELS == limit == 89478485
"""


def test_a_hundred_megapixel_jpeg_works_without_touching_pillows_limit(pictures, tmp_path: Path) -> None:
    """In a fresh process, where every warning is an error: Pillow's own open() would warn at this size."""
    limit = Image.MAX_IMAGE_PIXELS
    image = Image.new("RGB", (12_000, 9_000), (10, 10, 10))
    image.paste((250, 10, 10), (11_000, 0, 12_000, 1_000))
    path = tmp_path / "large.jpg"
    path.write_bytes(pictures.encode(image, "JPEG", orientation=6, quality=80))
    del image
    with warnings.catch_warnings(record=True):
        ran = subprocess.run(
            [sys.executable, "-c", HUNDRED_MEGAPIXELS, str(path)], capture_output=True, text=True
        )
    assert ran.returncode == 0, ran.stderr
    assert limit == Image.MAX_IMAGE_PIXELS
