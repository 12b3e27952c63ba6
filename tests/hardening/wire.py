"""Bytes on sockets, as no well-behaved client would send them; and what a server does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import statistics
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

BUSY_MACHINE_S = 5.0  # what a loaded machine may add to any time


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that came back, and after how long."""

    data: bytes
    elapsed_s: float

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1]) if self.data else 0

    @property
    def code(self) -> str:
        return str(json.loads(self.data.partition(b"\r\n\r\n")[2])["code"])

    @property
    def n_replies(self) -> int:
        return self.data.count(b"HTTP/1.1 ")


async def send_raw(port: int, chunks: AsyncIterator[bytes], patience_s: float = 30.0) -> Answer:
    """Send until all is sent or a whole problem document has come; collect what comes."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            async for chunk in chunks:
                writer.write(chunk)
                await writer.drain()

    sending = asyncio.create_task(send())
    received, elapsed_s = b"", 0.0
    try:
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(patience_s) as patience:
                while data := await reader.read(1 << 16):
                    received += data
                    elapsed_s = time.monotonic() - began
                    if _is_whole(received):  # is there more, where nothing more should come?
                        sending.cancel()
                        patience.reschedule(asyncio.get_running_loop().time() + 0.3)
    finally:
        sending.cancel()
        writer.transport.abort()
    return Answer(received, elapsed_s)


def _is_whole(received: bytes) -> bool:
    return b'"request_id"' in received and received.endswith(b"}")


async def at_once(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def trickle(head: bytes, drop: bytes = b"x", pause_s: float = 0.2) -> AsyncIterator[bytes]:
    """`head`, and then `drop` by `drop` for ever."""
    yield head
    while True:
        await asyncio.sleep(pause_s)
        yield drop


async def flood(head: bytes, chunk: bytes) -> AsyncIterator[bytes]:
    yield head
    while True:
        yield chunk


@dataclass
class Memory:
    """A process's memory in MB, from Linux's /proc."""

    pid: int
    _start_mb: float = field(init=False)

    def __post_init__(self) -> None:
        (Path("/proc") / str(self.pid) / "clear_refs").write_text("5")  # the peak starts again
        self._start_mb = self._read("VmRSS")

    @property
    def growth_mb(self) -> float:
        """Of the peak since the start."""
        return self._read("VmHWM") - self._start_mb

    def _read(self, name: str) -> float:
        lines = (Path("/proc") / str(self.pid) / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


class Health:
    """Asks `/healthz` twenty times a second in a thread of its own and keeps how long each answer took."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.elapsed_s: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Health:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def percentile_ms(self, percent: int) -> float:
        return 1000 * percentile(self.elapsed_s, percent)

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            began = time.monotonic()
            try:
                connection.request("GET", "/healthz")
                if connection.getresponse().status != 200:
                    self.failures.append("not 200")
                self.elapsed_s.append(time.monotonic() - began)
            except OSError as exc:
                self.failures.append(repr(exc))
            finally:
                connection.close()


def percentile(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def request(
    *headers: str, method: str = "POST", path: str = "/v1/inferences", version: str = "1.1", host: str = "x"
) -> bytes:
    """A request's head."""
    lines = [f"{method} {path} HTTP/{version}", *([f"Host: {host}"] if host else []), *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def slices(data: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
