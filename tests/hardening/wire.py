"""Bytes on sockets, as no well-behaved client would send them; and what a server does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.hardening.probe import Report
from tests.server.fake_server import ROOT

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
    """Runs `tests.hardening.probe` meanwhile and holds its report."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._report = Report()

    def __enter__(self) -> Health:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hardening.probe", str(self._port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "asking\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        printed, _ = self._process.communicate(timeout=30)
        self._report = Report(**json.loads(printed))

    @property
    def failures(self) -> list[str]:
        return self._report.failures

    @property
    def n_asked(self) -> int:
        return len(self._report.elapsed_s)

    def percentile_ms(self, percent: int) -> float:
        return 1000 * percentile(self._report.elapsed_s, percent)

    def lag_ms(self, percent: int) -> float:
        """Of the probe itself."""
        return 1000 * percentile(self._report.lag_s, percent)


def percentile(values: list[float], percent: int) -> float:
    """100 is the largest."""
    if len(values) < 2 or percent == 100:
        return max(values)
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
