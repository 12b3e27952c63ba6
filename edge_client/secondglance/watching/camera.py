"""Frames of a camera, one every so often.

`http(s)://` is asked by ourselves: a stream of JPEGs, or a still that is fetched again for each frame.
Everything else (RTSP, /dev/video0, a video file) is left to ffmpeg, a program and not a library: it knows
every camera, and the edge stays light. It comes from the PATH or with the extra `camera`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from secondglance.errors import ServerUnavailableError, UsageError
from secondglance.watching.mjpeg import MAX_FRAME_BYTES, FrameError, MultipartFrames, boundary_of

_CHUNK_BYTES = 65_536
_FFMPEG_BOUNDARY = "ffmpeg"
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)


class CameraError(ServerUnavailableError):
    """The camera cannot be reached, or sends no pictures; later it may."""


def frames(spec: str, *, every_s: float) -> Iterator[bytes]:
    """Encoded frames until the camera ends or fails, at most one each `every_s`. Raises EdgeError."""
    if spec.startswith(("http://", "https://")):
        return _http_frames(spec, every_s)
    return _ffmpeg_frames(spec, every_s)


def shown_name(spec: str) -> str:
    """The camera's address without the password in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", spec)


def _http_frames(url: str, every_s: float) -> Iterator[bytes]:
    is_due = _Pace(every_s)
    with _camera_errors(url), httpx.Client(timeout=_TIMEOUT, follow_redirects=False) as client:
        while True:
            with client.stream("GET", url) as response:
                response.raise_for_status()
                boundary = boundary_of(response.headers.get("Content-Type", ""))
                if boundary is not None:
                    parser = MultipartFrames(boundary)
                    for chunk in response.iter_bytes():
                        yield from (frame for frame in parser.feed(chunk) if is_due())
                    return
                yield _still(response)
            time.sleep(every_s)


def _still(response: httpx.Response) -> bytes:
    if not response.headers.get("Content-Type", "").startswith("image/"):
        raise FrameError("the camera sends neither multipart/x-mixed-replace nor image/...")
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > MAX_FRAME_BYTES:
            raise FrameError(f"the picture exceeds {MAX_FRAME_BYTES} bytes")
    return bytes(data)


def _ffmpeg_frames(spec: str, every_s: float) -> Iterator[bytes]:
    source = ["-f", "v4l2", "-i", spec] if spec.startswith("/dev/") else ["-i", spec]
    output = ["-vf", f"fps=1/{every_s:g}", "-q:v", "2", "-f", "mpjpeg", "-"]
    command = [_ffmpeg(), "-nostdin", "-loglevel", "error", *source, "-an", *output]
    parser = MultipartFrames(_FFMPEG_BOUNDARY)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        complaints: deque[bytes] = deque(maxlen=1)
        reader = threading.Thread(target=complaints.extend, args=(process.stderr,), daemon=True)
        reader.start()  # a full pipe would hold ffmpeg up
        try:
            while chunk := process.stdout.read1(_CHUNK_BYTES):  # type: ignore[attr-defined]  # buffered pipe
                yield from parser.feed(chunk)
            code = process.wait()
        finally:
            process.kill()
            reader.join()
    if code:
        reason = b" ".join(complaints).decode(errors="replace").strip() or f"exit code {code}"
        raise CameraError(f"ffmpeg cannot read {shown_name(spec)}: {shown_name(reason)}")


def _ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        advice = "install ffmpeg, or pip install 'second-glance[camera]'"
        raise UsageError(f"this camera needs ffmpeg, which is not on the PATH: {advice}") from None
    return str(get_ffmpeg_exe())


class _Pace:
    """Says yes once in `every_s`."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._next = clock()

    def __call__(self) -> bool:
        now = self._clock()
        if now < self._next:
            return False
        self._next += self._every_s
        if self._next <= now:  # more than one beat late
            self._next = now + self._every_s
        return True


@contextmanager
def _camera_errors(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as exc:
        raise CameraError(f"{shown_name(url)} answers {exc.response.status_code}") from exc
    except (httpx.HTTPError, httpx.InvalidURL, FrameError) as exc:
        raise CameraError(f"{shown_name(url)}: {exc or type(exc).__name__}") from exc
