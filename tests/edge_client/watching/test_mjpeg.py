"""Frames come out whole however the stream is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondglance.watching import mjpeg
from secondglance.watching.mjpeg import FrameError, JpegFrames, is_multipart

FRAMES = [b"\xff\xd8one\xff\xd9", b"\xff\xd8--fram\r\n--two\xff\xd9", b"\xff\xd8" + bytes(500) + b"\xff\xd9"]


def stream(frames: list[bytes], *, with_length: bool) -> bytes:
    parts = []
    for frame in frames:
        length = b"Content-Length: %d\r\n" % len(frame) if with_length else b""
        parts.append(b"--frame\r\ncontent-type: image/jpeg\r\n" + length + b"\r\n" + frame + b"\r\n")
    return b"".join(parts) + b"--frame--\r\n"


@given(with_length=st.booleans(), cuts=st.lists(st.integers(0, 800), max_size=20))
def test_frames_are_whole_however_the_stream_is_cut(with_length: bool, cuts: list[int]) -> None:
    data = stream(FRAMES, with_length=with_length)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parser = JpegFrames()
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert [frame for piece in pieces for frame in parser.feed(piece)] == FRAMES


def test_a_boundary_with_its_dashes_counted_in_is_understood() -> None:
    assert list(JpegFrames().feed(stream(FRAMES, with_length=True))) == FRAMES


def test_a_frame_that_never_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "MAX_FRAME_BYTES", 1000)
    parser = JpegFrames()
    with pytest.raises(FrameError):
        list(parser.feed(b"--frame\r\n\r\n" + bytes(2000)))


@pytest.mark.parametrize(
    ("content_type", "is_stream"),
    [
        ("multipart/x-mixed-replace; boundary=frame", True),
        ('Multipart/X-Mixed-Replace;x=1; Boundary="a b"', True),
        ("image/jpeg", False),
        ("multipart/x-mixed-replace", True),
    ],
)
def test_a_stream_is_known_by_its_type(content_type: str, is_stream: bool) -> None:
    """Its boundary is not read: cameras name another one than they write."""
    assert is_multipart(content_type) is is_stream
