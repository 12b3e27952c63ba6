"""A real redis-server for tests: on a free loopback port, nothing on disk; it can be killed and paused."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from secondglance_server.testing import free_port
from tests.needs import needs_program

needs_redis = needs_program("redis-server", package="redis-server")


class RedisServer:
    """`options` are further ones of redis-server. It runs from the start."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it answers or wants a password."""
        never_saved = ("--save", "", "--appendonly", "no", "--dir", str(self._folder))
        where = ("--bind", "127.0.0.1", "--port", str(self.port))
        self._process = subprocess.Popen(
            ["redis-server", *where, *never_saved, *self._options], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client().ping()
                return
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server does not start"
                time.sleep(0.02)

    @property
    def pid(self) -> int:
        return self._process.pid

    def client(self) -> redis.Redis:
        """Return a blocking client for the test itself."""
        return redis.Redis(port=self.port, socket_timeout=20)

    def kill(self) -> None:
        """End it at once; what it held is lost."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Let it hang: connections stay open and are not answered."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it stopped."""
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A running one, ended with the block."""
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.resume()
        server.kill()
