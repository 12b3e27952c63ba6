"""Images cut short at every hundredth of their length: a picture or the client's fault, never ours."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from secondglance_protocol.errors import ERRORS
from secondglance_server.errors import ProblemError
from secondglance_server.inference.intake import decode, image_limits
from secondglance_server.settings import ServerSettings
from tests.server.exchange import ask

LIMITS = image_limits(ServerSettings())


def picture(mode: str = "RGB") -> Image.Image:
    """Noise: it compresses badly, so that every hundredth lies elsewhere in the format."""
    noise = random.Random(0).randbytes(120 * 90 * len(mode))
    return Image.frombytes(mode, (120, 90), noise)


def encoded(
    format_name: str, mode: str = "RGB", *, orientation: int | None = None, **options: object
) -> bytes:
    buffer = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010E] = "a description " * 50
        options["exif"] = exif
    picture(mode).save(buffer, format_name, **options)
    return buffer.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "baseline JPEG": lambda: encoded("JPEG"),
    "progressive JPEG": lambda: encoded("JPEG", progressive=True),
    "JPEG turned upright": lambda: encoded("JPEG", orientation=1),
    "JPEG on its side": lambda: encoded("JPEG", orientation=6),
    "PNG": lambda: encoded("PNG"),
    "PNG with alpha": lambda: encoded("PNG", "RGBA"),
    "PNG on its side": lambda: encoded("PNG", orientation=6),
    "lossy WebP": lambda: encoded("WEBP"),
    "lossless WebP": lambda: encoded("WEBP", lossless=True),
    "WebP with alpha": lambda: encoded("WEBP", "RGBA"),
    "WebP on its side": lambda: encoded("WEBP", orientation=6),
}


def cut_at_every(percent: int, data: bytes) -> list[bytes]:
    return [data[: len(data) * share // 100] for share in range(0, 100, percent)]


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_a_cut_image_is_a_picture_or_the_clients_fault(make: Callable[[], bytes]) -> None:
    """At every hundredth. A missing end is forgiven where every pixel is there, as the intake promises."""
    refused = 0
    for data in cut_at_every(1, make()):
        try:
            assert decode(data, LIMITS).shape == (90, 120, 3)
        except ProblemError as problem:
            assert 400 <= ERRORS[problem.code].status < 500, problem  # noqa: PT017  # both are right
            refused += 1
    assert refused >= 90


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
async def test_a_cut_image_over_http_is_answered_or_refused(
    client: httpx.AsyncClient, make: Callable[[], bytes]
) -> None:
    for data in cut_at_every(10, make()):
        response = await ask(client, upload=data)
        assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
