"""A server of one's own for a while: `secondglance-server serve` as a child process on a free loopback port.

For demonstrations, benchmarks and apps' own tests:

    with serving() as url:
        EdgeClient(url).ask("photo.jpg", "What is written on the red sign?")
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


class ServerDidNotStartError(RuntimeError):
    """The child ended, or was not ready in time."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(
    *arguments: str,
    program: Sequence[str] = ("secondglance_server.cli", "serve"),
    environment: Mapping[str, str] | None = None,
    log: IO[bytes] | int = subprocess.DEVNULL,
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> Iterator[str]:
    """Yields the base URL of a ready server, stopped by SIGTERM. `arguments` follow `serve` in its command;
    `program` is another module to run with its first arguments, which takes `--host` and `--port`, too.

    Raises ServerDidNotStartError.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        *program,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *arguments,
    ]
    child = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environment or {})})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(child, url, ready_timeout_s)
        yield url
    finally:
        stop(child)


def stop(child: subprocess.Popen[bytes], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End a child process by SIGTERM, or by SIGKILL if it has not ended within `timeout_s` seconds."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_until_ready(child: subprocess.Popen[bytes], url: str, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Return when the server of this process is ready. Raises ServerDidNotStartError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise ServerDidNotStartError(f"the server ended with exit code {child.returncode}")
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"{url}/readyz", timeout=5),
        ):
            return
        time.sleep(0.05)
    raise ServerDidNotStartError(f"the server was not ready within {timeout_s:.0f} s")
