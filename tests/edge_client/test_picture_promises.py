"""What the docstrings of `secondglance.pictures` promise and no other test would miss, module by module."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFile

from secondglance import BadImageError
from secondglance.pictures import opening
from secondglance.pictures.color import high_byte, to_srgb
from secondglance.pictures.encoding import Recipe, encode
from secondglance.pictures.files import listed_names
from secondglance.pictures.heic import is_heic
from secondglance.pictures.heif_boxes import read_meta, without_side_data
from secondglance.pictures.opening import FORMATS, open_file
from secondglance.pictures.orientation import orientation_of, turn_upright, upright_size
from secondglance.pictures.original import Original
from secondglance_protocol.protocol import MEDIA_TYPES
from tests.edge_client.formats.test_one_bad_among_good import KINDS, picture

SIZE = (48, 36)


class _SizeSeenError(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_opening_shows_the_size_before_any_pixel_is_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`open_file`: "calls `check_size` ... before pixels are decoded"; "what the decoders raise" passes."""

    def decodes(*_: object) -> None:
        raise AssertionError("decoded")

    def check(size: tuple[int, int]) -> None:
        assert size == SIZE
        raise _SizeSeenError

    monkeypatch.setattr(ImageFile.ImageFile, "load", decodes)
    with pytest.raises(_SizeSeenError):
        open_file(io.BytesIO(picture(kind, SIZE)), check)
    if kind != "JPEG":  # whose pixels stay in the file
        with pytest.raises(AssertionError, match="decoded"):
            open_file(io.BytesIO(picture(kind, SIZE)), lambda _: None)


def test_a_jpegs_pixels_stay_in_its_file_and_others_are_decoded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`opening`, `original`: "a JPEG's pixels stay in its file; other formats are decoded here, whole"."""
    decoded: list[str | None] = []
    load = ImageFile.ImageFile.load

    def counting(image: ImageFile.ImageFile) -> Any:
        if image.tile:
            decoded.append(image.format)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counting)
    for kind, at_open, per_look in (("JPEG", 0, 1), ("BMP", 1, 0)):
        decoded.clear()
        with Original(picture(kind, SIZE)) as original:
            assert len(decoded) == at_open
            for _ in range(2):
                original.crop((0, 0, 8, 8))
        assert len(decoded) == at_open + 2 * per_look


def test_no_format_starts_another_program_and_none_is_guessed() -> None:
    """`FORMATS`: EPS starts Ghostscript; ICO, PSD and others that Pillow knows are refused unopened."""
    assert not {"EPS", "WMF"} & set(FORMATS)
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS" + bytes(60), bytes(64), b""):
        with pytest.raises(BadImageError, match="known format"):
            open_file(io.BytesIO(data), lambda _: None)


def test_a_format_is_known_by_its_content_wherever_the_file_stands() -> None:
    """`open_file`: "by content", from the beginning."""
    file = io.BytesIO(picture("PNG", SIZE))
    file.seek(7)
    assert open_file(file, lambda _: None).format == "PNG"


def test_a_decoder_that_this_pillow_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF")
    monkeypatch.setattr(Image, "init", lambda: False)
    with pytest.raises(BadImageError, match="known format"):
        opening.open_file(io.BytesIO(picture("AVIF", SIZE)), lambda _: None)
    assert opening.open_file(io.BytesIO(picture("PNG", SIZE)), lambda _: None).format == "PNG"


def test_only_files_of_our_own_are_closed(tmp_path: Path) -> None:
    """`Original.close`: "close the file if we opened it"."""
    theirs = io.BytesIO(picture("PNG", SIZE))
    Original(theirs).close()
    assert not theirs.closed
    path = tmp_path / "a.png"
    path.write_bytes(picture("PNG", SIZE))
    ours = Original(path)
    file = ours._file
    assert file is not None
    assert not file.closed
    ours.close()
    assert file.closed


def test_a_file_that_turns_out_bad_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    opened: list[Any] = []
    open_path = Path.open

    def noting(self: Path, *arguments: Any) -> Any:
        opened.append(open_path(self, *arguments))
        return opened[-1]

    monkeypatch.setattr(Path, "open", noting)
    with pytest.raises(BadImageError):
        Original(path)
    assert [file.closed for file in opened] == [True]


@pytest.mark.parametrize(
    "source", [42, None, io.StringIO("text"), ["a.jpg"]], ids=lambda source: type(source).__name__
)
def test_what_is_no_source_is_a_bad_image_that_says_so(source: Any) -> None:
    """`Original`: "raises BadImageError wherever the picture cannot be read"."""
    with pytest.raises(BadImageError, match=r"no path|binary mode"):
        Original(source)


@given(st.integers(-(2**31), 2**31 - 1), st.sampled_from([9, 10, 12, 14, 16]), st.booleans())
def test_grey_outside_its_range_becomes_black_or_white(value: int, n_bits: int, inverted: bool) -> None:
    """`high_byte`: the upper 8 of `n_bits`; "what lies outside the range becomes black or white"."""
    image = Image.new("I", (1, 1), value)
    level = min(max(value, 0), (1 << n_bits) - 1) >> (n_bits - 8)
    found = high_byte(image, n_bits, inverted=inverted)
    assert (found.mode, found.getpixel((0, 0))) == ("L", 255 - level if inverted else level)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK"])
def test_every_mode_becomes_rgb_without_metadata(mode: str) -> None:
    """`to_srgb`: "RGB in sRGB without any metadata", for the modes that Pillow makes as well as decodes."""
    base = Image.effect_noise((8, 6), 50)
    if mode in ("La", "RGBa"):
        image = base.convert("LA" if mode == "La" else "RGBA").convert(mode)
    else:
        grey = base.quantize(256)
        image = {"P": grey, "PA": grey.convert("PA")}.get(mode) or base.convert("RGB").convert(mode)
    image.info["comment"] = "secret"
    found = to_srgb(image)
    assert (found.mode, found.size, found.info) == ("RGB", (8, 6), {})
    if mode != "1":
        _, largest = ImageChops.difference(found.convert("L"), base).getextrema()
        assert largest <= 3


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(-3, 12))
def test_the_upright_size_is_its_own_inverse(width: int, height: int, orientation: int) -> None:
    """`upright_size`, `turn_upright`, and "anything else counts as 1"."""
    assert upright_size(upright_size((width, height), orientation), orientation) == (width, height)
    image = Image.new("L", (3, 2))
    turned = turn_upright(image, orientation)
    assert turned.size == upright_size((3, 2), orientation)
    assert (turned is image) == (orientation not in range(2, 9))


def test_the_orientation_of_a_pillow_image_is_what_its_caller_set() -> None:
    """`orientation_of`: "that of its file, or what a caller has set; never XMP"."""
    image = Image.new("L", (3, 2))
    assert orientation_of(image) == 1
    image.getexif()[0x0112] = 6
    assert orientation_of(image) == 6
    image.getexif()[0x0112] = 9
    assert orientation_of(image) == 1
    other = Image.new("L", (3, 2))
    other.info["xmp"] = b'<x tiff:Orientation="6"/>'
    assert orientation_of(other) == 1


@pytest.mark.parametrize("wanted", ["jpeg", "webp", "png"])
def test_nothing_but_pixels_is_encoded(wanted: Any) -> None:
    """`encoding`: "without any metadata", whatever the image carries."""
    image = Image.effect_noise((64, 48), 50).convert("RGB")
    exif = Image.Exif()
    exif[0x0110] = "SECRET"
    image.info |= {
        **dict.fromkeys(("comment", "exif", "xmp"), exif.tobytes()),
        "icc_profile": b"SECRET" * 30,
        "Title": "SECRET",
    }
    image.getexif()[0x0110] = "SECRET"
    encoded = encode(to_srgb(image), Recipe(wanted), accepted=MEDIA_TYPES, max_bytes=10**9)
    assert b"SECRET" not in encoded.data
    assert not Image.open(io.BytesIO(encoded.data)).info.keys() & {"exif", "icc_profile", "xmp", "comment"}


@pytest.mark.parametrize("wanted", ["jpeg", "webp"])
def test_no_step_of_quality_between_was_passed_over(wanted: Any) -> None:
    """`encode`: "the first in steps of 8 below it that fits"."""
    image = Image.effect_noise((64, 48), 50).convert("RGB")
    qualities = [85, 77, 69, 61, 53, 45, 37, 30]
    sizes = []
    for quality in qualities:
        one = encode(image, Recipe(wanted, quality=quality), accepted=MEDIA_TYPES, max_bytes=10**9)
        sizes.append(len(one.data))
    for limit in sizes:
        found = encode(image, Recipe(wanted), accepted=MEDIA_TYPES, max_bytes=limit)
        assert found.quality == next(q for q, n in zip(qualities, sizes, strict=True) if n <= limit)


def test_a_name_that_ends_in_nul_may_be_anything() -> None:
    """`listed_names`: a carriage return or blanks are part of a name that `find -print0` writes."""
    assert listed_names(b"a.jpg\r\0 \0\xef\xbb\xbfb.jpg\0") == ["a.jpg\r", " ", "\ufeffb.jpg"]


def test_a_list_with_a_byte_order_mark_names_its_first_file() -> None:
    """E10: the mark was taken for the beginning of a name."""
    assert listed_names(b"\xef\xbb\xbfa.jpg\r\n  \r\nb.jpg") == ["a.jpg", "b.jpg"]


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda body: _box(b"meta", bytes(4) + body)))
def test_what_looks_like_no_heif_has_no_items(data: bytes) -> None:
    """`heif_boxes`: never an error; "no items, no crop and one picture"; nothing to rename."""
    meta = read_meta(data)
    assert meta.n_pictures >= 1
    if not meta.items:
        assert (meta.clean_aperture((9, 9)), meta.n_pictures) == (None, 1)
        assert without_side_data(data, meta) is data


_INNER = (b"pitm", b"iinf", b"infe", b"iref", b"thmb", b"grpl", b"altr", b"iprp", b"ipco", b"ipma", b"clap")


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


@given(
    st.recursive(
        st.binary(max_size=40),
        lambda inner: st.tuples(st.sampled_from(_INNER), st.lists(inner, max_size=3)).map(
            lambda made: _box(made[0], b"".join(made[1]))
        ),
        max_leaves=12,
    )
)
def test_boxes_in_boxes_of_any_kind_are_read_without_an_error(body: bytes) -> None:
    """`read_meta`: "what can be read", of boxes that lie about themselves, too."""
    data = _box(b"ftyp", b"heic") + _box(b"meta", bytes(4) + body)
    meta = read_meta(data)
    assert meta.n_pictures >= 1
    meta.clean_aperture((64, 64))
    assert len(without_side_data(data, meta)) == len(data)


@given(st.binary(max_size=64))
def test_heic_is_known_by_its_file_type_box_alone(prefix: bytes) -> None:
    """`is_heic`: no prefix is an error, however short."""
    assert is_heic(prefix) <= (prefix[4:8] == b"ftyp")
    for brand, wanted in ((b"heic", True), (b"hevx", True), (b"avif", False), (b"mif1", False)):
        assert is_heic(_box(b"ftyp", brand + bytes(4)) + prefix) == wanted
    assert is_heic(_box(b"ftyp", b"mif1" + bytes(4) + b"miafheix") + prefix)
    assert not is_heic(_box(b"ftyp", b"mif1" + bytes(4) + b"miafavif") + prefix)
