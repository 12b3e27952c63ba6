"""Frames of a camera, one every so often.

`http(s)://` is asked by ourselves: a stream of JPEGs, or a still that is fetched again for each frame.
Everything else (RTSP, /dev/video0, a video file) is left to ffmpeg (see `ffmpeg`). The bytes decide what a
reply is, not its headers. Whoever sends nothing for a while is left, and the caller comes again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress

import httpx

from secondglance.errors import ServerUnavailableError
from secondglance.watching.ffmpeg import FfmpegError, ffmpeg_frames
from secondglance.watching.mjpeg import MAX_FRAME_BYTES, FrameError, JpegFrames, is_multipart
from secondglance.wire.addresses import credentials, shown_address, without_secrets
from secondglance.wire.proxies import client_for

_SILENCE_S = 9.0
_ONE_FRAME_S = 60.0  # for a large frame over a slow link
_TIMEOUT = httpx.Timeout(_SILENCE_S, connect=5.0)
_REDIRECTS = 5
_BEGINNINGS = (
    *(b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*"),
    *(b"P%d" % number for number in range(1, 7)),
)


class Pace:
    """Says yes once in `every_s` seconds; the first time at once."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.every_s = every_s
        self._clock = clock
        self._next = clock()

    def __call__(self) -> bool:
        """Return whether a frame is due, and take it for delivered if so."""
        now = self._clock()
        if now < self._next:
            return False
        self._next += self.every_s
        if self._next <= now:  # more than one beat late
            self._next = now + self.every_s
        return True

    def mark(self) -> None:
        """Take a frame for delivered now, due or not."""
        if not self():
            self._next = self._clock() + self.every_s

    def due_in_s(self) -> float:
        """Return the seconds until the next frame is due."""
        return max(0.0, self._next - self._clock())


_Pace = Pace


class CameraError(ServerUnavailableError):
    """The camera cannot be reached, or sends no pictures; later it may."""


def frames(
    spec: str, *, every_s: float, pace: Pace | None = None, stopping: threading.Event | None = None
) -> Iterator[bytes]:
    """Yield encoded frames until the camera ends or fails, at most one each `every_s` seconds.

    `pace` keeps the beat across several calls; `stopping` ends the wait for a frame. Raises EdgeError.
    """
    pace, stopping = pace or Pace(every_s), stopping or threading.Event()
    if spec.startswith(("http://", "https://")):
        return _http_frames(spec, pace, stopping)
    return _program_frames(spec, pace, stopping)


def shown_name(spec: str) -> str:
    """Return the camera's address without the secrets in it."""
    return shown_address(spec)


def _program_frames(spec: str, pace: Pace, stopping: threading.Event) -> Iterator[bytes]:
    with _camera_errors(spec):
        for frame in ffmpeg_frames(spec, every_s=pace.every_s, stopping=stopping):
            pace.mark()
            yield frame


def _http_frames(spec: str, pace: Pace, stopping: threading.Event) -> Iterator[bytes]:
    user, password, address = credentials(spec)
    auth = _Login(user, password) if user or password else None
    with _camera_errors(spec):
        url = httpx.URL(address)
        with client_for(url, _TIMEOUT) as client:
            while not stopping.is_set():
                with _following(client, url, auth) as response:
                    is_stream = yield from _frames_of(response, pace, stopping)
                if is_stream:
                    return
                stopping.wait(pace.due_in_s())


@contextmanager
def _following(client: httpx.Client, url: httpx.URL, auth: httpx.Auth | None) -> Iterator[httpx.Response]:
    """Open a reply behind redirects within the host. Raises httpx's errors, FrameError."""
    for _ in range(_REDIRECTS):
        with client.stream("GET", url, auth=auth) as response:
            following = response.next_request
            if following is None:
                response.raise_for_status()
                yield response
                return
        if following.url.host != url.host or following.url.scheme not in (url.scheme, "https"):
            raise FrameError(f"redirects to another host, {following.url.host}")
        url = following.url
    raise FrameError("redirects without end")


def _frames_of(
    response: httpx.Response, pace: Pace, stopping: threading.Event
) -> Generator[bytes, None, bool]:
    """Yield what is due of one reply; return whether it was a stream. Raises FrameError.

    A reply without a length that holds a second JPEG is a stream, whatever its type says.
    """
    parser, body, patience = JpegFrames(), bytearray(), _Patience()
    is_stream = is_multipart(response.headers.get("Content-Type", ""))
    has_length = "Content-Length" in response.headers
    first: bytes | None = None
    for chunk in response.iter_bytes():
        for frame in parser.feed(chunk):
            patience.begin_anew()
            if first is not None and not has_length:
                is_stream = True
            first = first or frame
            if is_stream and pace():
                yield frame
        if not is_stream:
            body += chunk
        if len(body) > MAX_FRAME_BYTES:
            raise FrameError(f"the picture exceeds {MAX_FRAME_BYTES} bytes")
        patience.check(is_inside=parser.is_inside or not is_stream)
        if stopping.is_set():
            return True
    if not is_stream:
        yield _still(bytes(body), pace)
    return is_stream


def _still(body: bytes, pace: Pace) -> bytes:
    if not (body.startswith(_BEGINNINGS) or body[4:8] == b"ftyp"):
        raise FrameError("the camera sends neither a stream of JPEGs nor a picture")
    pace.mark()
    return body


class _Patience:
    """Ends a reply that goes on without a frame."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()

    def begin_anew(self) -> None:
        self._since = self._clock()

    def check(self, *, is_inside: bool) -> None:
        """Raise FrameError if a frame took too long; within a frame the link may be slow."""
        limit = _ONE_FRAME_S if is_inside else _SILENCE_S
        if self._clock() - self._since > limit:
            raise FrameError(f"it sends data, but no whole picture in {limit:.0f} seconds")


class _Login(httpx.DigestAuth):
    """Answers the camera's challenge: by digest where it is offered, else by name and password."""

    def __init__(self, user: str, password: str) -> None:
        super().__init__(user, password)
        self._basic = httpx.BasicAuth(user, password)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        flow = super().auth_flow(request)
        response = yield next(flow)
        offered = [offer.lower() for offer in response.headers.get_list("www-authenticate")]
        if response.status_code == 401 and not any(offer.startswith("digest ") for offer in offered):
            yield from self._basic.auth_flow(request)
            return
        with suppress(StopIteration):
            while True:
                response = yield flow.send(response)


@contextmanager
def _camera_errors(spec: str) -> Iterator[None]:
    """The seam where what a camera does becomes a line without secrets."""
    name = shown_name(spec)
    try:
        yield
    except httpx.HTTPStatusError as exc:
        status = exc.response.status_code
        hint = ": user and password are missing or wrong" if status == 401 else ""
        raise CameraError(f"{name} answers {status}{hint}") from exc
    except httpx.ReadTimeout as exc:
        raise CameraError(f"{name} sends nothing for {_SILENCE_S:.0f} seconds") from exc
    except (httpx.HTTPError, httpx.InvalidURL, FrameError, FfmpegError) as exc:
        reason = without_secrets(str(exc) or type(exc).__name__, spec)
        raise CameraError(f"{name}: {reason}") from exc
    except (KeyError, ValueError) as exc:  # a challenge that names no known algorithm, say
        reason = without_secrets(f"{type(exc).__name__}: {exc}", spec)
        raise CameraError(f"{name} sends what cannot be understood ({reason})") from exc
