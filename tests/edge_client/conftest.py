"""What several edge tests share: pictures to ask about and a relay that counts and cuts."""

from __future__ import annotations

import contextlib
import io
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image


class Pictures:
    """Pictures noisy enough that a shift by one pixel shows."""

    @staticmethod
    def noise(size: tuple[int, int], *, mode: str = "RGB", seed: int = 0) -> Image.Image:
        """Blocky noise that survives JPEG: no two neighbouring blocks alike."""
        coarse = (max(1, size[0] // 3), max(1, size[1] // 3))
        bands = len(Image.new(mode, (1, 1)).getbands())
        data = random.Random(seed).randbytes(coarse[0] * coarse[1] * bands)
        return Image.frombytes(mode, coarse, data).resize(size, Image.Resampling.BICUBIC)

    @staticmethod
    def encode(
        image: Image.Image, kind: str = "JPEG", *, orientation: int | None = None, **options: Any
    ) -> bytes:
        """The picture as a file's bytes, with an EXIF orientation if one is given."""
        if orientation is not None:
            exif = Image.Exif()
            exif[0x0112] = orientation
            options["exif"] = exif
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    @classmethod
    def photo(cls, size: tuple[int, int] = (640, 480), *, seed: int = 0, **options: Any) -> bytes:
        """A JPEG file."""
        return cls.encode(cls.noise(size, seed=seed), "JPEG", **options)


@pytest.fixture(scope="session")
def pictures() -> type[Pictures]:
    return Pictures


class Relay:
    """A TCP relay that counts on its own, and cuts every connection once a limit is reached.

    `cut_up`, `cut_down`: bytes in all after which both ends are closed at once; None never cuts.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.bytes = {"up": 0, "down": 0}
        self.cut_up: int | None = None
        self.cut_down: int | None = None
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop listening, cut what is open and wait until everything that arrived is counted."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                edge, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:  # the server is gone, and so is its side of the relay
                edge.close()
                continue
            self._sockets += [edge, server]
            for source, sink, direction in ((edge, server, "up"), (server, edge, "down")):
                pump = threading.Thread(target=self._pump, args=(source, sink, direction), daemon=True)
                self._threads.append(pump)
                pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(65_536):
                limit = self.cut_up if direction == "up" else self.cut_down
                if limit is not None:
                    data = data[: max(0, limit - self.bytes[direction])]
                self.bytes[direction] += len(data)
                sink.sendall(data)
                if limit is not None and self.bytes[direction] >= limit:
                    self._cut()
                    return
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the other direction was cut

    def _cut(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the pump that reads from it
            end.close()  # unread bytes make this a reset, which a writer notices


@pytest.fixture
def relay_to() -> Iterator[Callable[[int], Relay]]:
    """Start relays to a port on loopback; they are closed after the test."""
    relays: list[Relay] = []

    def start(port: int) -> Relay:
        relays.append(Relay(port))
        return relays[-1]

    yield start
    for relay in relays:
        relay.close()
