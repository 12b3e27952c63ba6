"""State files, clocks that tests move, and a camera on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from secondglance.watching.state import WatchState


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[WatchState]:
    with WatchState(tmp_path / "state" / "watch.sqlite") as state:
        yield state


class Camera:
    """An HTTP camera: `/mjpeg` streams `frames` and ends, `/still` gives them one by one, else 404."""

    def __init__(self, frames: list[bytes], *, with_length: bool = True) -> None:
        self.requests: list[str] = []
        stills = iter(frames)
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.requests.append(self.path)
                if self.path == "/mjpeg":
                    self.send_response(200)
                    self.send_header("Content-Type", 'multipart/x-mixed-replace; boundary="frame"')
                    self.end_headers()
                    for frame in frames:
                        length = f"Content-Length: {len(frame)}\r\n" if with_length else ""
                        head = f"--frame\r\nContent-Type: image/jpeg\r\n{length}\r\n"
                        self.wfile.write(head.encode() + frame + b"\r\n")
                    self.wfile.write(b"--frame--\r\n")
                elif self.path == "/still":
                    frame = next(stills, frames[-1])
                    self.send_response(200)
                    self.send_header("Content-Type", "image/jpeg")
                    self.send_header("Content-Length", str(len(frame)))
                    self.end_headers()
                    self.wfile.write(frame)
                elif self.path == "/page":
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html")
                    self.end_headers()
                    self.wfile.write(b"<html>")
                else:
                    self.send_error(404)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def serve_frames() -> Iterator[Callable[..., Camera]]:
    cameras: list[Camera] = []

    def start(frames: list[bytes], *, with_length: bool = True) -> Camera:
        cameras.append(Camera(frames, with_length=with_length))
        return cameras[-1]

    yield start
    for camera in cameras:
        camera.close()
