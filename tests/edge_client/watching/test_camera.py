"""Frames of streams and stills over HTTP, and of whatever ffmpeg reads."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from secondglance.errors import UsageError
from secondglance.watching import camera
from secondglance.watching.camera import CameraError, frames, shown_name


@pytest.fixture
def photos(pictures: Any) -> list[bytes]:
    return [pictures.photo((64, 48), seed=seed) for seed in range(5)]


@pytest.mark.parametrize("with_length", [True, False])
def test_a_stream_of_jpegs_gives_its_frames(
    serve_frames: Callable[..., Any], photos: list[bytes], with_length: bool
) -> None:
    url = serve_frames(photos, with_length=with_length).url
    assert list(frames(f"{url}/mjpeg", every_s=0)) == photos


def test_frames_that_come_too_soon_are_left_out(
    serve_frames: Callable[..., Any], photos: list[bytes]
) -> None:
    """The whole stream comes within the first interval, so its first frame is all."""
    url = serve_frames(photos).url
    assert list(frames(f"{url}/mjpeg", every_s=600)) == photos[:1]


def test_a_pace_keeps_its_beat() -> None:
    now = 0.0
    is_due = camera._Pace(1.0, lambda: now)
    due = []
    for now in (0.0, 0.5, 1.2, 1.9, 2.1, 9.0, 9.5, 10.1):  # noqa: B007  # the clock reads it
        due.append(is_due())
    assert due == [True, False, True, False, True, True, False, True]


def test_a_still_is_fetched_again_for_each_frame(
    serve_frames: Callable[..., Any], photos: list[bytes]
) -> None:
    served = serve_frames(photos)
    assert list(itertools.islice(frames(f"{served.url}/still", every_s=0.001), 5)) == photos
    assert served.requests == ["/still"] * 5


@pytest.mark.parametrize(("path", "reason"), [("/none", "404"), ("/page", "neither")])
def test_what_is_no_camera_is_told(
    serve_frames: Callable[..., Any], photos: list[bytes], path: str, reason: str
) -> None:
    with pytest.raises(CameraError, match=reason):
        list(frames(serve_frames(photos).url + path, every_s=0))


def test_nobody_at_the_address_is_told_without_the_password() -> None:
    with pytest.raises(CameraError, match=r"127\.0\.0\.1:9") as caught:
        list(frames("http://user:secret@127.0.0.1:9/mjpeg", every_s=0))
    assert "secret" not in str(caught.value)
    assert shown_name("rtsp://user:secret@cam/1") == "rtsp://cam/1"


@pytest.fixture
def video(photos: list[bytes], tmp_path: Path) -> Path:
    """Four seconds at five frames a second, each second another picture."""
    for number in range(20):
        (tmp_path / f"{number:02}.jpg").write_bytes(photos[number // 5])
    path = tmp_path / "video.avi"
    inputs = ["-framerate", "5", "-i", str(tmp_path / "%02d.jpg")]
    subprocess.run(
        [get_ffmpeg_exe(), "-loglevel", "error", *inputs, "-c:v", "mjpeg", "-q:v", "2", str(path)], check=True
    )
    return path


def test_ffmpeg_reads_a_video_at_the_pace_asked_for(video: Path) -> None:
    seen = list(frames(str(video), every_s=1))
    assert len(seen) == 4
    for frame in seen:
        (video.parent / "frame.jpg").write_bytes(frame)
        with Image.open(video.parent / "frame.jpg") as picture:
            assert picture.size == (64, 48)


def test_leaving_early_ends_ffmpeg(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    stream = frames(str(video), every_s=0.2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert started[0].poll() is not None


def test_what_ffmpeg_says_is_passed_on() -> None:
    with pytest.raises(CameraError, match=r"/nowhere\.avi"):
        list(frames("/nowhere.avi", every_s=1))


def test_without_ffmpeg_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UsageError, match=r"second-glance\[camera\]"):
        list(frames("/dev/video0", every_s=1))
