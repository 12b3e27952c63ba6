"""Servers as processes in any environment: started, awaited, stopped, and what processor time they took.

`secondglance_server.testing.serving` starts a server in this environment; vLLM's engine lives in another, and
its work is done by processes that the server starts.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx

from secondglance_server.testing import free_port, stop

ROOT = pathlib.Path(__file__).parents[2]
READY_S = 900.0
STOP_S = 60.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that was ready when it was handed out."""

    url: str
    process: subprocess.Popen[bytes]
    log: pathlib.Path

    def family(self) -> set[int]:
        """Return the process ids of the server and of all that it started and that started further ones."""
        found, waiting = set[int](), [self.process.pid]
        while waiting:
            pid = waiting.pop()
            found.add(pid)
            for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    waiting += [int(child) for child in children.read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        """Return the processor time that the family has taken so far."""
        ticks = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS_PER_S


@contextlib.contextmanager
def server_process(
    python: str,
    log: pathlib.Path,
    *arguments: str,
    module: str = "secondglance_server.cli",
    environment: Mapping[str, str] | None = None,
    niceness: int = 0,
) -> Iterator[ServerProcess]:
    """Yield a ready server of the environment of `python`; it is stopped by SIGTERM if it has not ended."""
    port = free_port()
    command: Sequence[str] = [
        *(["nice", "-n", str(niceness)] if niceness else []),
        *[python, "-m", module, "serve", "--host", "127.0.0.1", "--port", str(port), *arguments],
    ]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=stderr, stderr=stderr, env={**os.environ, **(environment or {})}
        )
    server = ServerProcess(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        stop(process, STOP_S)


def _wait_until_ready(server: ServerProcess) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended: {server.log.read_text()[-3000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/readyz").status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"not ready within {READY_S:g} s: {server.log.read_text()[-3000:]}")
