"""Pictures from the field that were refused, crashed a run or were silently read wrongly; a row each."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from secondglance import BadImageError, EdgeClient
from secondglance.pictures.heif_boxes import read_meta
from secondglance.pictures.original import Original
from secondglance_protocol import jpeg
from secondglance_server.errors import ProblemError
from secondglance_server.inference.intake import DecodingMemory, decode, patch_limits
from secondglance_server.settings import ServerSettings
from tests.edge_client.formats.make import cmyk, saved, scene
from tests.edge_client.formats.variants import SIZE, chunk, packed, png, tiff

HERE = Path(__file__).parent
LIMITS = patch_limits(ServerSettings())
FILES = {path.name: path.read_bytes() for path in sorted((HERE / "files").iterdir())}


def whole(data: bytes) -> Image.Image:
    with Original(data) as original:
        return original.crop((0, 0, *original.size))


def both(data: bytes) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the picture as the edge and as the server read it."""
    return np.asarray(whole(data)), decode(data, LIMITS)


def damaged_avif() -> bytes:
    """The pixels' bytes are lost, as on a bad disk; the header is fine."""
    data = bytearray(FILES["srgb.avif"])
    start = data.index(b"mdat") + 4
    data[start + 8 :] = bytes(len(data) - start - 8)
    return bytes(data)


@pytest.mark.parametrize("kind", [RuntimeError, ZeroDivisionError, MemoryError, UserWarning, AttributeError])
def test_i1_no_exception_of_a_later_decode_leaves_as_it_is(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("odd")

    with Original(FILES["srgb.jpg"]) as original:
        monkeypatch.setattr(Image.Image, "resize", fail)
        with pytest.raises(BadImageError) as caught:
            original.crop((0, 0, 4, 4))
    assert isinstance(caught.value.__cause__, kind)


def test_i1_an_avif_with_lost_pixels_is_a_bad_image() -> None:
    """I1: Pillow's AVIF decoder raises RuntimeError, which was a traceback and ended a batch."""
    with pytest.raises(BadImageError):
        whole(damaged_avif())


@pytest.mark.parametrize("name", [name for name in FILES if name not in {"animated.gif"}])
def test_i1_a_bad_picture_is_a_bad_image_and_the_next_one_is_answered(
    name: str, server: Any, settings: Any
) -> None:
    """I1: one bad file among good ones, of every format."""
    bad = FILES[name][: len(FILES[name]) // 3]
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        with pytest.raises(BadImageError):
            client.ask(bad, "What?")
        assert client.ask(FILES["srgb.jpg"], "What?").answer


@pytest.mark.parametrize("sides", [(1_000_001, 2), (1, 1_000_001)], ids=str)
def test_i10_a_side_longer_than_a_million_is_a_bad_image(sides: tuple[int, int]) -> None:
    """I10: it was a pydantic error, taken for wrong usage, and ended a batch."""
    data = saved(Image.new("L", sides), "PNG")
    with pytest.raises(BadImageError, match="1000000"):
        Original(data)
    with pytest.raises(BadImageError, match="1000000"):
        Original(Image.new("L", sides))


def jpeg_with(marker: int, body: bytes) -> bytes:
    data = FILES["srgb.jpg"]
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def png_with(*chunks: bytes) -> bytes:
    data = FILES["srgb.png"]
    return data[:33] + b"".join(chunks) + data[33:]


def wrong_checksum(kind: bytes, body: bytes) -> bytes:
    made = chunk(kind, body)
    return made[:-1] + bytes([made[-1] ^ 1])


JUNK = b"MM\0\x08\0\2\1\x12\0\3\0\0" * 3
SIDE_DATA = {
    "I4 EXIF in JPEG": jpeg_with(0xE1, b"Exif\0\0" + JUNK),
    "I4 EXIF in PNG": png_with(chunk(b"eXIf", JUNK)),
    "I4 raw profile in PNG": png_with(chunk(b"tEXt", b"Raw profile type exif\0no hexadecimal")),
    "I5 long text": png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 * 2**20)))),
    "I5 long profile": png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(9 * 2**20)))),
    "I5 profile cut short": png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(999))[:9])),
    "I5 checksum of pHYs": png_with(wrong_checksum(b"pHYs", bytes(9))),
    "I5 checksum of tEXt": png_with(wrong_checksum(b"tEXt", b"a\0b")),
    "I5 checksum of gAMA": png_with(wrong_checksum(b"gAMA", b"\0\1\x86\xa0")),
    "I5 checksum of eXIf": png_with(wrong_checksum(b"eXIf", b"II*\0\x08\0\0\0")),
    "I5 short pHYs": png_with(chunk(b"pHYs", b"\0")),
    "I5 short tRNS": png_with(chunk(b"tRNS", b"\0")),
    "I5 short acTL": png_with(chunk(b"acTL", b"\0")),
    "I5 key that is no Latin-1": png_with(chunk(b"tEXt", bytes(range(1, 200)))),
    "I8 XMP": jpeg_with(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'),
    "I8 raw profile": png_with(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n8\n" + b"49492a0008000000")),
    "MPF that lies": jpeg_with(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "ICC in parts that are missing": jpeg_with(0xE2, b"ICC_PROFILE\0\2\5" + bytes(99)),
}


@pytest.mark.parametrize("name", SIDE_DATA)
def test_i4_i5_i8_side_data_that_cannot_be_read_are_ignored(name: str) -> None:
    """I4, I5, I8: such files were refused, on one side or on both."""
    plain = FILES["srgb.png" if SIDE_DATA[name][:4] == b"\x89PNG" else "srgb.jpg"]
    for found, wanted in zip(both(SIDE_DATA[name]), both(plain), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_i4_broken_exif_in_webp_avif_and_heic_is_ignored() -> None:
    for name in ("lossy.webp", "turned-6.avif", "srgb.heic"):
        data = FILES[name]
        at = data.rindex(b"II*\0") if b"II*\0" in data else data.rindex(b"MM\0*")
        broken = data[:at] + b"MM\0\x08\0\2" + data[at + 6 :]
        np.testing.assert_array_equal(np.asarray(whole(broken)), np.asarray(whole(data)))


def test_i5_damaged_pixels_are_refused() -> None:
    """I5: a wrong checksum of pixels was accepted while one beside them was not."""
    data = bytearray(FILES["srgb.png"])
    data[data.index(b"IEND") - 8] ^= 1  # the last byte of the checksum before it is at -5
    with pytest.raises(BadImageError, match="damaged"):
        Original(bytes(data))
    with pytest.raises(ProblemError):
        decode(bytes(data), LIMITS)


def grey_tiff(depth: int, photometric: int, pixels: bytes, kind: int = 1) -> bytes:
    return tiff(*SIZE, pixels, {258: (3, [depth]), 262: (3, [photometric]), 277: (3, [1]), 339: (3, [kind])})


@pytest.mark.parametrize(("depth", "kind"), [(32, 1), (32, 2), (16, 2), (8, 2), (32, 3)])
def test_i7_numbers_without_a_defined_white_are_refused(depth: int, kind: int) -> None:
    """I7: signed and 32-bit numbers came out as noise or white. (The right ones are variants.)"""
    pixels = bytes(SIZE[0] * SIZE[1] * depth // 8)
    with pytest.raises(BadImageError):
        whole(grey_tiff(depth, 1, pixels, kind))


@pytest.mark.parametrize("name", ["srgb.jpg", "progressive-420.jpg", "cmyk.jpg", "grey-1.8.jpg"])
def test_i9_a_jpeg_without_its_end_is_read_and_one_without_pixels_is_not(name: str) -> None:
    """I9: the server's docstring promised the first, and no test could fail."""
    data = FILES[name]
    assert data.endswith(jpeg.END)
    for found, wanted in zip(both(data[:-2]), both(data), strict=True):
        np.testing.assert_array_equal(found, wanted)
    for cut in (3, 5, 9, 40, len(data) // 3):
        with pytest.raises(BadImageError):
            whole(data[:-cut])
        with pytest.raises(ProblemError):
            decode(data[:-cut], LIMITS)


def test_i9_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    data = FILES["progressive-420.jpg"]
    last_scan = data.rindex(b"\xff\xda")
    before = data[: data.rindex(b"\xff\xc4", 0, last_scan)]
    with pytest.raises(BadImageError):
        whole(before)
    with pytest.raises(ProblemError):
        decode(before, LIMITS)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_i11_the_transparent_colour_is_compared_at_the_files_depth(depth: int) -> None:
    """I11: the key was compared unscaled, which hid what is shown and showed what is hidden."""
    most = (1 << depth) - 1
    for key in {0, 1, most, most // 3}:
        values = np.full((4, 8), most - key if most - key != key else key ^ 1)
        values[:, :3] = key
        data = png(8, 4, depth, 0, packed(values, depth), chunk(b"tRNS", struct.pack(">H", key)))
        wanted = np.where(values == key, 255, values * 255 // most)
        for found in both(data):
            assert np.abs(found[..., 0].astype(int) - wanted).max() <= 1


def with_clap(data: bytes, clap: tuple[int, ...]) -> bytes:
    """Put a `clap` property into a small AVIF: boxes grow, and so does the place of the pixels."""
    body = struct.pack(">I4s8i", 40, b"clap", *clap)
    ipco, ipma = data.index(b"ipco") - 4, data.index(b"ipma") - 4
    n_properties = len(read_meta(data).properties)
    ipco_bytes = int.from_bytes(data[ipco : ipco + 4])
    ipma_bytes = int.from_bytes(data[ipma : ipma + 4])
    made = bytearray(data)
    made[ipma + 18] += 1  # one property more, of the first item
    end = ipma + 19 + data[ipma + 18]
    made[end:end] = bytes([0x80 | (n_properties + 1)])
    made[ipma : ipma + 4] = struct.pack(">I", ipma_bytes + 1)
    made[ipco + ipco_bytes : ipco + ipco_bytes] = body
    made[ipco : ipco + 4] = struct.pack(">I", ipco_bytes + 40)
    for name in (b"iprp", b"meta"):
        at = data.index(name) - 4
        made[at : at + 4] = struct.pack(">I", int.from_bytes(data[at : at + 4]) + 41)
    start = data.index(b"mdat") + 4
    iloc = data.index(b"iloc")
    places = [at for at in range(iloc, iloc + 40) if data[at : at + 4] == struct.pack(">I", start)]
    made[places[0] : places[0] + 4] = struct.pack(">I", start + 41)
    return bytes(made)


def test_i12_the_crop_of_an_avif_is_applied() -> None:
    """I12: HEIC was cropped as its container says, AVIF was not."""
    plain = saved(scene(), "AVIF", quality=95, subsampling="4:4:4")
    centre = whole(with_clap(plain, (48, 1, 32, 1, 0, 1, 0, 1)))
    assert centre.tobytes() == whole(plain).crop((24, 16, 72, 48)).tobytes()
    corner = whole(with_clap(plain, (48, 1, 32, 1, -24, 1, 16, 1)))
    assert corner.tobytes() == whole(plain).crop((0, 32, 48, 64)).tobytes()
    for senseless in ((97, 1, 32, 1, 0, 1, 0, 1), (48, 0, 32, 1, 0, 1, 0, 1), (47, 2, 32, 1, 0, 1, 0, 1)):
        assert whole(with_clap(plain, senseless)).tobytes() == whole(plain).tobytes()


def test_i12_around_a_small_first_frame_is_nothing() -> None:
    """I12: it was filled with the palette's first colour; viewers leave it clear."""
    frame = Image.new("P", (10, 8), 1)
    frame.putpalette([255, 0, 0, 0, 0, 255])
    data = bytearray(saved(frame, "GIF"))
    data[6:10] = struct.pack("<2H", 30, 20)
    at = data.index(b",") + 1
    data[at : at + 4] = struct.pack("<2H", 5, 4)
    shown = whole(bytes(data))
    assert shown.size == (30, 20)
    assert [shown.getpixel(point) for point in ((0, 0), (5, 4), (14, 11), (15, 12))] == [
        (255, 255, 255),
        (0, 0, 255),
        (0, 0, 255),
        (255, 255, 255),
    ]


def test_i13_of_several_pictures_in_a_heic_the_primary_is_named() -> None:
    """I13: the picture was right, and the note said that it was the first."""
    heif = pillow_heif.HeifFile()
    for colour in ("red", "blue"):
        heif.add_from_pillow(Image.new("RGB", (64, 64), colour))
    buffer = io.BytesIO()
    heif.save(buffer, primary_index=1, quality=90)
    with Original(buffer.getvalue()) as original:
        assert original.notes == ("the HEIF file holds several pictures; the primary one is asked about",)
        assert original.crop((0, 0, 1, 1)).getpixel((0, 0))[2] > 200  # type: ignore[index]


def test_i13_a_later_page_that_cannot_be_read_spoils_nothing() -> None:
    """I13: "unknown pixel mode" of a page that nobody asked about."""
    first = tiff(*SIZE, bytes(SIZE[0] * SIZE[1]), {258: (3, [8]), 262: (3, [1]), 277: (3, [1])})
    later = struct.pack("<HHHII", 1, 258, 3, 1, 24) + bytes(4)
    data = first[:-4] + struct.pack("<I", len(first)) + later
    with Original(data) as original:
        assert original.crop((0, 0, *original.size)).size == SIZE
        assert len(original.notes) == 1


def test_s5_nothing_is_allocated_before_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """S5: a PNG was decoded to look for EXIF, and a WebP's canvases were made, while others held all room."""
    entered: list[str] = []

    class Room(DecodingMemory):
        def room_for(self, format_name: str, size: Any) -> Any:
            entered.append(format_name)
            raise ZeroDivisionError

    from PIL import ImageFile, WebPImagePlugin

    def allocates(*_: object, **__: object) -> None:
        raise AssertionError("before there was room")

    monkeypatch.setattr(ImageFile.ImageFile, "load", allocates)
    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "_open", allocates)
    for name in ("srgb.png", "lossy.webp", "srgb.jpg"):
        with pytest.raises(ZeroDivisionError):
            decode(FILES[name], LIMITS, memory=Room(1))
    assert entered == ["PNG", "WEBP", "JPEG"]


def test_ink_is_read_alike_on_both_sides() -> None:
    for data in (saved(cmyk(scene(), 1.0), "JPEG", quality=97), FILES["cmyk-profile.jpg"]):
        edge, server = both(data)
        assert np.abs(edge.astype(int) - server).max() <= 1
