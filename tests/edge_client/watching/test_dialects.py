"""Cameras as they are: whatever their headers say, frames come, or a true line does."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from secondglance.errors import ServerUnavailableError
from secondglance.watching import camera, ffmpeg
from secondglance.watching.camera import CameraError, frames
from secondglance.watching.mjpeg import JpegFrames
from secondglance.watching.watch import WatchPlan
from tests.edge_client.watching.dialects import DIALECTS, OddCamera, Send, head, stream_of
from tests.edge_client.watching.running import RunningWatch, until


@pytest.fixture(scope="module")
def photos(pictures: Any) -> list[bytes]:
    """Baseline and progressive, with a JPEG inside of their EXIF data."""
    plain = [pictures.photo((64, 48), seed=seed) for seed in range(3)]
    progressive = [pictures.photo((64, 48), seed=seed, progressive=True) for seed in range(3, 5)]
    thumbnail = b"Exif\0\0" + pictures.photo((16, 12), seed=9)
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return [photo[:2] + segment + photo[2:] for photo in plain + progressive]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_e4_every_dialect_gives_its_frames_whole(photos: list[bytes], dialect: str) -> None:
    """E4: no frames and no word, a false message, or frames that were cut."""
    with OddCamera(stream_of(dialect, itertools.cycle(photos))) as odd:
        seen = list(itertools.islice(frames(f"http://{odd.address}/", every_s=0), 12))
    assert set(seen) == set(photos)


@pytest.mark.parametrize("seed", range(15))
def test_e4_frames_are_whole_whatever_lies_between_them_and_however_it_is_cut(
    photos: list[bytes], seed: int
) -> None:
    """E4: text of any length and frames cut anywhere, in pieces of any size: no whole frame is missed."""
    dice = random.Random(seed)
    sent, data = [], b""
    for number in range(30):
        photo = photos[number % len(photos)]
        if dice.random() < 0.3:
            data += photo[: dice.randrange(len(photo) - 200, len(photo) - 2)] + b"\r\n--frame\r\n"
        data += bytes(dice.choices(b"abc \r\n-:=", k=dice.randrange(200))) + photo
        sent.append(photo)
    parser, seen = JpegFrames(), []
    while data:
        size = dice.choice([1, 2, 7, 1000, 50_000])
        seen += list(parser.feed(data[:size]))
        data = data[size:]
    assert seen == sent


@pytest.mark.parametrize("shape", ["one frame", "no frame", "starts only", "segments"])
def test_h7_each_byte_is_looked_at_about_once(shape: str) -> None:
    """H7: 5 MB in small chunks took 4 s of CPU; ten times the data may take about ten times as long."""
    shapes = {
        "one frame": b"\xff\xd8\xff\xda\0\2" + bytes(10**6),
        "no frame": b"--frame\r\n\r\n" * 90_000,
        "starts only": b"\xff\xd8\xff\xe0\xff\xff" * 160_000,
        "segments": b"\xff\xd8" + b"\xff\xe0\0\2" * 250_000,
    }
    data = shapes[shape]

    def cpu_s(size: int) -> float:
        parser, began = JpegFrames(), time.thread_time()
        for start in range(0, size, 64):
            list(parser.feed(data[start : start + 64]))
        return time.thread_time() - began

    small = max(cpu_s(len(data) // 10), 0.005)
    assert cpu_s(len(data)) < 40 * small, "quadratic would be 100"


STILLS: dict[str, tuple[bytes | None, tuple[bytes, ...]]] = {
    "as the books have it": (b"image/jpeg", ()),
    "upper case": (b"IMAGE/JPEG", ()),
    "octets": (b"application/octet-stream", ()),
    "no type": (None, ()),
    "text by name": (b"text/plain; charset=utf-8", ()),
}


@pytest.mark.parametrize("kind", STILLS)
@pytest.mark.parametrize("has_length", [True, False])
def test_e12_the_bytes_of_a_still_decide(photos: list[bytes], kind: str, has_length: bool) -> None:
    """E12: stills without, with an odd or an upper-case Content-Type were refused."""
    length = (b"Content-Length: %d" % len(photos[0]),) if has_length else ()

    def reply(send: Send, request: bytes, number: int) -> None:
        send(head(STILLS[kind][0], *length) + photos[0])

    with OddCamera(reply) as odd:
        assert list(itertools.islice(frames(f"http://{odd.address}/", every_s=0.01), 3)) == [photos[0]] * 3


LINES: dict[str, tuple[Callable[[Send, bytes, int], None], str]] = {
    "a page": (lambda send, request, number: send(head(b"image/jpeg") + b"<html>log in"), "neither"),
    "nothing": (lambda send, request, number: send(head(b"image/jpeg")), "neither"),
    "cut short": (
        lambda send, request, number: send(head(b"image/jpeg", b"Content-Length: 900") + b"\xff\xd8"),
        "incomplete|without sending complete",
    ),
    "no HTTP": (lambda send, request, number: send(b"RTSP/1.0 200 OK\r\n\r\n"), "127.0.0.1"),
    "not allowed": (
        lambda send, request, number: send(head(None, status=b"401 Unauthorized")),
        "401: user and password",
    ),
    "another host": (
        lambda send, request, number: send(head(None, b"Location: http://192.0.2.1/", status=b"302 Found")),
        "another host",
    ),
    "a ring": (
        lambda send, request, number: send(head(None, b"Location: /", status=b"302 Found")),
        "without end",
    ),
    "a digest of no kind": (
        lambda send, request, number: send(
            head(
                None,
                b'WWW-Authenticate: Digest realm="x", nonce="y", algorithm=ROT13',
                b"Content-Length: 0",
                status=b"401 Unauthorized",
            )
        ),
        "127.0.0.1",
    ),
    "silence": (lambda send, request, number: time.sleep(30), "sends nothing"),
    "no end": (lambda send, request, number: _forever(send, b"\xff" * 64), "no whole picture"),
}


def _forever(send: Send, data: bytes) -> None:
    send(head(b"multipart/x-mixed-replace; boundary=x"))
    while True:
        send(data)
        time.sleep(0.01)


@pytest.mark.parametrize("kind", LINES)
def test_e4_what_gives_no_frame_gives_a_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """E3, E4: within ten seconds, which are shorter here; without a secret."""
    import httpx

    monkeypatch.setattr(camera, "_SILENCE_S", 1.0)
    monkeypatch.setattr(camera, "_TIMEOUT", httpx.Timeout(1.0))
    reply, line = LINES[kind]
    with OddCamera(reply) as odd, pytest.raises(CameraError, match=line) as caught:
        list(frames(f"http://user:s3cret@{odd.address}/?pwd=s3cret", every_s=0))
    assert "s3cret" not in str(caught.value)


def test_e4_the_limits_are_within_ten_seconds() -> None:
    assert camera._SILENCE_S < 10
    assert camera._TIMEOUT.read == camera._SILENCE_S
    assert ffmpeg.SILENCE_S < 30


@pytest.mark.parametrize("kind", ["Digest", "Basic"])
@pytest.mark.parametrize("password", ["p", "p@ss:w@rd", "p/w:rd?#%", "%C3%A9"])
def test_e12_a_camera_that_asks_for_a_password_gets_it(photos: list[bytes], kind: str, password: str) -> None:
    """E12, E8: digest was refused; a password with `@` or `/` was no password."""
    requests = []
    challenge = f'WWW-Authenticate: {kind} realm="cam", qop="auth", nonce="abc", algorithm=MD5'

    def reply(send: Send, request: bytes, number: int) -> None:
        requests.append(request.lower())
        if f"authorization: {kind.lower()} ".encode() in request.lower():
            send(head(b"image/jpeg", b"Content-Length: %d" % len(photos[0])) + photos[0])
        else:
            send(head(None, challenge.encode(), b"Content-Length: 0", status=b"401 Unauthorized"))

    with OddCamera(reply) as odd:
        assert next(iter(frames(f"http://me:{password}@{odd.address}/", every_s=1))) == photos[0]
    assert b"authorization" not in requests[0], "nothing is sent before it is asked for"


def test_e12_redirects_within_the_host_are_followed(photos: list[bytes]) -> None:
    def reply(send: Send, request: bytes, number: int) -> None:
        if b"/elsewhere" in request:
            send(head(b"image/jpeg", b"Content-Length: %d" % len(photos[0])) + photos[0])
        else:
            send(head(None, b"Location: /elsewhere", b"Content-Length: 0", status=b"302 Found"))

    with OddCamera(reply) as odd:
        assert next(iter(frames(f"http://{odd.address}/", every_s=1))) == photos[0]


def test_e12_the_pace_holds_across_reconnects_and_hanging_up_is_said_once(
    photos: list[bytes], tmp_path: Path
) -> None:
    """E12: a camera that hangs up after each frame gave nine frames in one beat, and a line for each."""

    def reply(send: Send, request: bytes, number: int) -> None:
        send(head(b"multipart/x-mixed-replace; boundary=frame") + b"--frame\r\n\r\n" + photos[number % 5])

    with OddCamera(reply) as odd:
        plan = WatchPlan(("What?",), camera=f"http://{odd.address}/", every_s=0.5)
        with RunningWatch(plan, tmp_path) as running:
            until(lambda: len(running.answered_names) >= 5)
        beats = [later - earlier for earlier, later in itertools.pairwise(odd.connections)]
        assert min(beats) > 0.3, "the beat is half a second"
        assert len(running.said) == 1, running.said


def test_e3_a_stream_that_stalls_is_said_and_tried_again(
    photos: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E3: silent for ever."""
    import httpx

    monkeypatch.setattr(camera, "_TIMEOUT", httpx.Timeout(0.5))

    def reply(send: Send, request: bytes, number: int) -> None:
        send(head(b"multipart/x-mixed-replace; boundary=frame") + photos[number % 5])
        time.sleep(20)

    with OddCamera(reply) as odd:
        plan = WatchPlan(("What?",), camera=f"http://{odd.address}/", every_s=0.01)
        with RunningWatch(plan, tmp_path) as running:
            until(lambda: len(running.answered_names) >= 3)
            assert ["sends nothing" in line for line in running.said] == [True]


@pytest.fixture
def silent() -> Any:
    """A peer that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"rtsp://user:s3cret@127.0.0.1:{server.getsockname()[1]}/live"


def test_e3_an_rtsp_peer_that_says_nothing_is_said_and_its_ffmpeg_ended(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E3: `--once` never ended; the limit is shorter here."""
    monkeypatch.setattr(ffmpeg, "SILENCE_S", 1.0)
    started = _remember_processes(monkeypatch)
    with pytest.raises(CameraError, match="no frame came") as caught:
        list(frames(silent, every_s=60))
    assert "s3cret" not in str(caught.value)
    assert started
    assert all(process.poll() is not None for process in started)


def test_e3_stopping_ends_the_wait_and_ffmpeg(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """E3: it was orphaned after SIGTERM."""
    started = _remember_processes(monkeypatch)
    stopping = threading.Event()
    threading.Timer(1.0, stopping.set).start()
    began = time.monotonic()
    assert list(frames(silent, every_s=1, stopping=stopping)) == []
    assert time.monotonic() - began < 10
    assert started
    assert all(process.poll() is not None for process in started)


def _remember_processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return started


if sys.platform.startswith("linux"):

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_e3_ffmpeg_ends_with_a_watch_that_is_killed(silent: str, tmp_path: Path, number: int) -> None:
        """E3: whatever ends the parent, no child is left."""
        arguments = ["watch", "--camera", silent, "-q", "What?", "--state", str(tmp_path)]
        command = [sys.executable, "-m", "secondglance.cli", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        children = Path(f"/proc/{process.pid}/task")

        def child() -> int | None:
            for task in children.iterdir():
                for found in (task / "children").read_text().split():
                    if "ffmpeg" in Path(f"/proc/{found}/comm").read_text():
                        return int(found)
            return None

        try:
            until(lambda: child() is not None)
            found = child()
        finally:
            process.send_signal(number)
            process.wait(30)
        assert found is not None
        until(lambda: not _is_alive(found), 10)


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def short_video(pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, five frames in each."""
    folder = tmp_path_factory.mktemp("video")
    for number in range(10):
        (folder / f"{number:02}.jpg").write_bytes(pictures.photo((64, 48), seed=number))
    inputs = ["-framerate", "5", "-i", str(folder / "%02d.jpg")]
    out = ["-c:v", "mjpeg", "-q:v", "2", str(folder / "video.avi")]
    subprocess.run([get_ffmpeg_exe(), "-loglevel", "error", *inputs, *out], check=True)
    return folder / "video.avi"


@pytest.mark.parametrize(("every_s", "count"), [(60, 1), (1.5, 2), (1, 2), (0.2, 10)])
def test_e13_the_first_frame_comes_at_once(short_video: Path, every_s: float, count: int) -> None:
    """E13: with a long beat the first frame took a minute, and a short film gave none."""
    assert len(list(frames(str(short_video), every_s=every_s))) == count


def test_e14_frames_that_a_full_disk_cannot_hold_are_said_to_be_lost(
    photos: list[bytes], tmp_path: Path
) -> None:
    """E14: a camera's frame does not come again; each loss counts for the exit code."""
    with OddCamera(stream_of("as the books have it", itertools.cycle(photos))) as odd:
        plan = WatchPlan(("What?",), camera=f"http://{odd.address}/", every_s=0.05)
        with RunningWatch(plan, tmp_path) as running:

            def away(picture: bytes, question: str) -> str:
                raise ServerUnavailableError("nobody there")

            running.ask = away
            until(lambda: len(running.watch.spool) > 0)
            with running.watch._state.transaction() as sql:
                pages = sql.execute("PRAGMA page_count").fetchone()[0]
                sql.execute(f"PRAGMA max_page_count={pages}")
            until(lambda: running.watch.failures > 0)
            assert any("this frame is lost" in line for line in running.said)
            assert os.getpid() == running.watch._pulse.status()["pid"]
