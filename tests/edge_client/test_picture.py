"""The picture of a conversation shows the region where it is, and tells what it cost."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from PIL import Image, ImageFont

from secondglance import EdgeClient, Reply
from secondglance.show.answer_sheet import Line, caption_lines, draw_picture, wrapped
from secondglance.text import readable_bytes


@pytest.fixture
def reply(server, settings, pictures) -> Reply:
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        return client.ask(pictures.photo((1000, 500)), "What?")


def draw(source, reply: Reply) -> Image.Image:
    return draw_picture(source, "What?", reply, max_original_pixels=10**8)


def near(first: object, second: tuple[int, int, int]) -> bool:
    assert isinstance(first, tuple)
    return all(abs(a - b) < 16 for a, b in zip(first, second, strict=True))


ACCENT = (226, 62, 40)


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_box_is_drawn_around_the_region_as_a_viewer_shows_it(
    pictures, reply: Reply, orientation: int
) -> None:
    """Its left edge stands where the region starts, its inside is untouched."""
    size = (1000, 500) if orientation == 1 else (500, 1000)
    sheet = draw(pictures.encode(Image.new("RGB", size, "white"), "JPEG", orientation=orientation), reply)
    assert sheet.width == 1000
    box = reply.roi.pixels  # 100, 50, 300, 250, and the original is shown pixel for pixel
    assert near(sheet.getpixel((box.left - 2, 150)), ACCENT)
    assert near(sheet.getpixel((200, box.bottom + 1)), ACCENT)
    assert near(sheet.getpixel((200, 150)), (255, 255, 255))
    assert near(sheet.getpixel((box.left - 20, 150)), (255, 255, 255))


@pytest.mark.parametrize("size", [(310, 260), (4000, 3000), (300, 3000), (3000, 260)], ids=str)
def test_every_shape_of_original_leaves_room_for_the_caption(
    pictures, reply: Reply, size: tuple[int, int]
) -> None:
    sheet = draw(pictures.noise(size), reply)
    assert 720 <= sheet.width <= 1280
    assert sheet.height <= 960 + 300
    assert near(sheet.getpixel((2, sheet.height - 2)), (250, 249, 246))


def test_the_caption_tells_both_answers_their_doubt_and_the_bytes(reply: Reply) -> None:
    told = " | ".join(line.text for line in caption_lines("What?", reply))
    assert "What?" in told
    assert "First glance: draft" in told
    assert "min-entropy 1.500 nats, above the threshold of 0.500" in told
    assert "Second glance: final" in told
    assert "min-entropy 0.100 nats, at or below" in told
    assert f"of an original of {readable_bytes(reply.receipt.original_bytes)}" in told


def test_a_draft_is_told_as_such_and_a_sure_answer_has_no_second_line(
    server, settings, pictures, reply: Reply
) -> None:
    degraded = replace(reply, second=None, degraded="the server has gone")
    told = [line.text for line in caption_lines("What?", degraded)]
    assert "No second glance: the server has gone" in told
    server.is_sure = True
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        sure = client.ask(pictures.photo((300, 200)), "What?")
    assert not any("Second" in line.text for line in caption_lines("What?", sure))
    assert draw(pictures.photo((300, 200)), sure).size[0] == 720


@pytest.mark.parametrize("text", ["short", "w" * 500, "many words " * 60, ""])
def test_long_text_takes_two_lines_and_an_ellipsis(text: str) -> None:
    lines = wrapped(Line(text, 20, (0, 0, 0), 0), 300)
    assert len(lines) <= 2
    font = ImageFont.load_default(20)
    assert all(font.getlength(line.text) <= 300 for line in lines)
    assert ("..." in lines[-1].text) == (len(text) > 100)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (14_230, "14.2 kB"), (3_410_000, "3.41 MB")],
)
def test_bytes_are_readable(count: int, text: str) -> None:
    assert readable_bytes(count) == text
