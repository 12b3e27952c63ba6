"""Servers in vLLM's environment, asked by the usual edge."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx
import pytest

from secondglance_server.testing import free_port, serving

ROOT = pathlib.Path(__file__).parents[3]
READY_S = 600.0
STOP_S = 60.0


@dataclass
class VllmServer:
    """A server process on vLLM, ready when it is handed out."""

    url: str
    process: subprocess.Popen[bytes]
    log: pathlib.Path

    def family(self) -> set[int]:
        """Return the process ids of the server and all that it started."""
        found, waiting = set[int](), [self.process.pid]
        while waiting:
            pid = waiting.pop()
            found.add(pid)
            for tasks in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    waiting += [int(child) for child in tasks.read_text().split()]
        return found


@contextlib.contextmanager
def vllm_serving(
    log: pathlib.Path,
    *arguments: str,
    module: str = "secondglance_server.cli",
    environment: Mapping[str, str] | None = None,
) -> Iterator[VllmServer]:
    """Yield a ready server; stop it by SIGTERM if it has not ended."""
    port = free_port()
    command = [os.environ["SECONDGLANCE_VLLM_PYTHON"], "-m", module, "serve", "--engine", "vllm"]
    command += ["--host", "127.0.0.1", "--port", str(port), *arguments]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=stderr, stderr=stderr, env={**os.environ, **(environment or {})}
        )
    server = VllmServer(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(server: VllmServer) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log.read_text()[-3000:]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/readyz").status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"not ready within {READY_S:g} s: {server.log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def on_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with vllm_serving(tmp_path_factory.mktemp("vllm") / "server.log") as server:
        yield server


@pytest.fixture(scope="session")
def on_prefix() -> Iterator[str]:
    with serving() as url:
        yield url
