"""A camera on loopback that misbehaves on order: the dialects of MJPEG streams, and stills of all kinds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

Send = Callable[[bytes], None]

_TYPE = b"multipart/x-mixed-replace; boundary=frame"


def _part(
    frame: bytes,
    *,
    end: bytes = b"\r\n",
    mark: bytes = b"--frame",
    length: int | None = None,
    before: bytes | None = None,
    kind: bytes = b"image/jpeg",
) -> bytes:
    said = b"" if length is None else b"Content-Length: %d" % (len(frame) + length) + end
    return (
        (end if before is None else before) + mark + end + b"Content-Type: " + kind + end + said + end + frame
    )


DIALECTS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "as the books have it": (_TYPE, lambda frame: _part(frame, length=0)),
    "bare line feeds": (_TYPE, lambda frame: _part(frame, end=b"\n")),
    "bare line feeds and lengths": (_TYPE, lambda frame: _part(frame, end=b"\n", length=0)),
    "nothing before the boundary": (_TYPE, lambda frame: _part(frame, before=b"")),
    "dashes counted in": (_TYPE.replace(b"=", b"=--"), lambda frame: _part(frame, mark=b"----frame")),
    "a boundary in quotes": (_TYPE.replace(b"=frame", b'="frame"'), _part),
    "a boundary without dashes": (_TYPE, lambda frame: _part(frame, mark=b"frame")),
    "no boundary named": (b"multipart/x-mixed-replace", _part),
    "another boundary named": (_TYPE.replace(b"frame", b"other"), _part),
    "no first boundary": (_TYPE, lambda frame: _part(frame, mark=b"")),
    "lengths too long": (_TYPE, lambda frame: _part(frame, length=700)),
    "lengths too short": (_TYPE, lambda frame: _part(frame, length=-700)),
    "a length of thousands of digits": (
        _TYPE,
        lambda frame: _part(frame).replace(
            b"\r\n\r\n", b"\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 1
        ),
    ),
    "text among the pictures": (
        _TYPE,
        lambda frame: _part(b"<Event/>", length=0, kind=b"application/xml") + _part(frame, length=0),
    ),
    "frames cut short among them": (_TYPE, lambda frame: _part(frame[: len(frame) // 2]) + _part(frame)),
    "frames cut short in their head": (_TYPE, lambda frame: _part(frame[:100]) + _part(frame)),
    "pictures one after the other": (b"image/jpeg", lambda frame: frame),
    "pictures of no type": (b"application/octet-stream", lambda frame: frame),
    "video by name": (b"video/x-motion-jpeg", lambda frame: frame),
}


class OddCamera:
    """Calls `reply(send, request, number)` for each connection; use as a context manager."""

    def __init__(self, reply: Callable[[Send, bytes, int], None]) -> None:
        self._reply = reply
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.connections: list[float] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._server.accept()[0]
            except OSError:
                return
            self.connections.append(time.monotonic())
            self._open.append(connection)
            arguments = (connection, len(self.connections))
            threading.Thread(target=self._serve, args=arguments, daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (read := connection.recv(4096)):
                    return
                request += read
            self._reply(connection.sendall, request, number)
        except OSError:
            pass
        finally:
            connection.close()

    def __enter__(self) -> OddCamera:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            connection.close()
        self._thread.join(5)


def head(kind: bytes | None, *more: bytes, status: bytes = b"200 OK") -> bytes:
    """Return the head of a reply that ends with its connection."""
    lines = [b"HTTP/1.1 " + status, *([] if kind is None else [b"Content-Type: " + kind]), *more]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def stream_of(dialect: str, frames: Iterator[bytes]) -> Callable[[Send, bytes, int], None]:
    """Return a reply that sends frames in a dialect."""
    kind, write = DIALECTS[dialect]

    def reply(send: Send, request: bytes, number: int) -> None:
        send(head(kind))
        for frame in frames:
            send(write(frame))
            time.sleep(0.01)

    return reply
