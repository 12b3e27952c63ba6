"""What the docstrings of intake, pixels, decoding and images promise and no other test would miss."""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError
from secondglance_server.inference import intake
from secondglance_server.inference.async_engine import TooLate
from secondglance_server.inference.decoding import Decoders
from secondglance_server.inference.images import EncodedImage, image_id, upload_of
from secondglance_server.inference.intake import ImageLimits, decode, image_limits, inspect, patch_limits
from secondglance_server.inference.pixels import matches, to_rgb
from secondglance_server.inference.stores.memory import MemoryImageStore
from secondglance_server.inference.stores.protocol import Holding
from secondglance_server.inference.ticket import Ticket
from secondglance_server.settings import ServerSettings
from tests.server.exchange import Clock, encode, until

LIMITS = ImageLimits(max_pixels=10_000, min_side=4, max_side=400, max_aspect_ratio=10)
TAKEN = ("JPEG", "PNG", "WEBP")


@pytest.mark.parametrize("format_name", TAKEN)
def test_only_the_decoder_that_the_first_bytes_name_is_tried(
    format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`intake`: "content decides ... and only that one decoder is tried", for broken files, too."""
    tried: list[str] = []
    for name in TAKEN:
        header = intake._HEADERS[name]

        def noting(data: bytes, name: str = name, header: Any = header) -> Any:
            tried.append(name)
            return header(data)

        monkeypatch.setitem(intake._HEADERS, name, noting)
    decode(encode(20, 10, format_name), LIMITS)
    with pytest.raises(ProblemError):
        decode(encode(20, 10, format_name)[:20], LIMITS)
    assert tried == [format_name, format_name]


@pytest.mark.parametrize("format_name", ["GIF", "TIFF", "BMP", "PPM", "AVIF", "ICO"])
def test_other_formats_are_refused_unopened(format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(32, 32, format_name)
    monkeypatch.setattr(ImageFile.ImageFile, "__init__", lambda *_: pytest.fail("opened"))
    with pytest.raises(ProblemError) as caught:
        decode(data, LIMITS)
    assert caught.value.code == ErrorCode.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize("format_name", TAKEN)
@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((101, 100), "image_too_large"),
        ((401, 20), "image_too_large"),
        ((3, 20), "image_shape_refused"),
        ((300, 29), "image_shape_refused"),
        ((100, 100), None),
        ((300, 30), None),
        ((4, 40), None),
    ],
    ids=str,
)
def test_sizes_are_judged_by_the_header_and_limits_include_themselves(
    format_name: str, size: tuple[int, int], code: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`intake`: "read from the header and refused before anything is decoded"."""
    data = encode(*size, format_name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    if code is None:
        found = inspect(data, LIMITS)
        assert (found.size.width, found.size.height) == size
        assert found.n_bytes == intake.BYTES_PER_PIXEL[format_name] * size[0] * size[1]
        return
    with pytest.raises(ProblemError) as caught:
        inspect(data, LIMITS)
    assert caught.value.code == code


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_animations_are_refused(format_name: str) -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    frames[0].save(buffer, format_name, save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(ProblemError, match="animated") as caught:
        decode(buffer.getvalue(), LIMITS)
    assert caught.value.code == ErrorCode.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize("format_name", TAKEN)
@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_orientation_that_is_not_applied_is_refused(format_name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with pytest.raises(ProblemError) as caught:
        decode(encode(20, 10, format_name, exif=exif), LIMITS)
    assert caught.value.code == ErrorCode.UNORIENTED_IMAGE


def test_memory_that_is_not_there_is_not_the_clients_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_as_problem`: "not MemoryError: the limits rule it out, so it would be ours"."""

    def load(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(MemoryError):
        decode(encode(20, 10), LIMITS)


def test_the_patchs_limits_differ_from_the_global_images_in_pixels_alone() -> None:
    settings = ServerSettings(max_image_pixels=1000, max_patch_pixels=2000)
    first, second = image_limits(settings), patch_limits(settings)
    assert (first.max_pixels, second.max_pixels) == (1000, 2000)
    assert (first.min_side, first.max_side, first.max_aspect_ratio) == (
        second.min_side,
        second.max_side,
        second.max_aspect_ratio,
    )


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_a_palette_without_colours_is_refused(mode: str) -> None:
    """`to_rgb`: "raises ValueError for a palette without colours"; Pillow itself asserts."""
    image = Image.new(mode, (4, 4))
    image.palette = None
    with pytest.raises(ValueError, match="palette"):
        to_rgb(image, None)


@pytest.mark.parametrize(
    ("mode", "color"), [("1", (255,)), ("L", (7,)), ("I;16", (700,)), ("RGB", (1, 2, 3))], ids=str
)
def test_matches_are_the_samples_of_exactly_that_color(mode: str, color: tuple[int, ...]) -> None:
    """`matches`: bool [height, width], true where every sample is the colour's."""
    image = Image.new(mode, (5, 3))
    image.putpixel((4, 2), color if mode == "RGB" else color[0])
    found = matches(image, color)
    assert (found.shape, found.dtype) == ((3, 5), np.bool_)
    assert np.argwhere(found).tolist() == [[2, 4]]


async def test_a_late_picture_is_not_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Decoders.decode`: "raises TooLate", before its turn's work begins."""
    settings = ServerSettings()
    decoders = Decoders(settings)
    monkeypatch.setattr(intake, "_sniff", lambda _: pytest.fail("looked at"))
    with pytest.raises(TooLate):
        await decoders.decode(encode(20, 10), LIMITS, Ticket(deadline=0.0), lambda _: None)
    decoders.close()


async def test_closing_drops_what_waits_and_leaves_what_runs() -> None:
    """`Decoders.close`."""
    decoders = Decoders(ServerSettings(decode_threads=1))
    goes_on, looked = threading.Event(), []
    ticket = Ticket(deadline=math.inf)

    def look(size: Any) -> None:
        looked.append(size)
        goes_on.wait(20)

    running = asyncio.ensure_future(decoders.decode(encode(20, 10), LIMITS, ticket, look))
    waiting = asyncio.ensure_future(decoders.decode(encode(20, 12), LIMITS, ticket, look))
    await until(lambda: len(looked) == 1)
    decoders.close()
    goes_on.set()
    assert (await running).shape == (10, 20, 3)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(looked) == 1


@pytest.mark.parametrize("n_bytes", [0, 1, 64 * 1024, 64 * 1024 + 1, 3_000_000])
async def test_an_upload_is_hashed_once_and_off_the_loop_if_it_is_long(
    n_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S8: hashes of long uploads blocked the event loop, three times each."""
    threads: list[int] = []
    sha256 = hashlib.sha256

    def noting(data: bytes) -> Any:
        threads.append(threading.get_ident())
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", noting)
    upload = await upload_of(bytes(n_bytes))
    assert upload.sha256 == sha256(bytes(n_bytes)).hexdigest()
    assert [thread == threading.get_ident() for thread in threads] == [n_bytes <= 64 * 1024]


async def test_a_stored_image_is_renewed_by_each_use_and_names_no_other_tenants(clock: Clock) -> None:
    """`MemoryImageStore.recall`: "renewed"; gone, unknown or another tenant's is IMAGE_EXPIRED."""
    settings = ServerSettings(session_ttl_s=60)
    store = MemoryImageStore(settings, clock)
    image = EncodedImage(image_id("a", "0f"), b"bytes")
    await store.remember("a", image)
    for _ in range(3):
        clock.advance(59)
        assert await store.recall("a", image.id) is image
    with pytest.raises(ProblemError, match="again") as caught:
        await store.recall("b", image.id)
    assert caught.value.code == ErrorCode.IMAGE_EXPIRED
    clock.advance(61)
    with pytest.raises(ProblemError):
        await store.recall("a", image.id)
    await store.forget("a", image.id)  # "if it is held"


async def test_stored_images_stay_within_their_bytes(clock: Clock) -> None:
    """`MemoryImageStore`: "within a byte budget"; the oldest goes."""
    store = MemoryImageStore(ServerSettings(max_stored_image_bytes=25_000_000), clock)
    for number in range(4):
        await store.remember("a", EncodedImage(f"img_{number}", bytes(10_000_000)))
    assert store.holding == Holding(2, 20_000_000)
    with pytest.raises(ProblemError):
        await store.recall("a", "img_0")
    assert (await store.recall("a", "img_3")).id == "img_3"
