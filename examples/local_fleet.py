"""A fleet on this machine, without containers: servers as child processes, and nginx before them.

For the demonstration (`examples/fleet_demo.py`), the measurements behind docs/scaling.md and tests:

    with running_nginx({"a": "127.0.0.1:8001", "b": "127.0.0.1:8002"}, folder) as url: ...

Everything listens on loopback, on free ports, keeps its files in one folder, and is stopped at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from secondglance_server.testing import free_port, stop, wait_until_ready

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "deploy" / "fleet" / "nginx.conf"
ADDRESS_IN_EXAMPLE = re.compile(r"\b([ab]):8000\b")
START_TIMEOUT_S = 240.0  # two models are loaded at once, on cores that may be busy
SERVE = ("-m", "secondglance_server.cli", "serve")


@dataclass(frozen=True, slots=True)
class Server:
    """A server of the fleet; `log` is the file of its JSON lines."""

    tag: str
    address: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def wait_until_ready(self) -> None:
        """Return when its model is loaded. Raises ServerDidNotStartError."""
        wait_until_ready(self.process, self.url, START_TIMEOUT_S)

    def requests(self) -> list[dict[str, Any]]:
        """Return its log's lines about requests."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "request"]

    def kill(self) -> None:
        """End it as a lost machine would: nothing is finished, nothing handed over."""
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Servers by tag, the base URLs of nginx before them and of their Redis, and the folder of all files."""

    url: str
    servers: dict[str, Server]
    redis: str
    folder: Path


@contextlib.contextmanager
def child(
    command: Sequence[str], *, env: Mapping[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, stopped at the end by SIGTERM, or by SIGKILL if it does not obey."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **env})
    try:
        yield process
    finally:
        stop(process)


@contextlib.contextmanager
def running_server(
    tag: str,
    folder: Path,
    *,
    program: Sequence[str] = SERVE,
    settings: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Iterator[Server]:
    """A server that has begun to load its model. `settings`: variables without SECONDGLANCE_SERVER_."""
    port = port or free_port()
    given = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "SERVER_TAG": tag,
        "LOG_LEVEL": "info",
        **(settings or {}),
    }
    environment = {f"SECONDGLANCE_SERVER_{name}": value for name, value in given.items()}
    # Two servers share this machine's cores: torch's threads would spin for each other.
    environment["OMP_NUM_THREADS"] = "1"
    path = folder / f"server-{tag}.log"
    with path.open("ab") as log, child((sys.executable, *program), env=environment, log=log) as process:
        yield Server(tag, f"127.0.0.1:{port}", path, process)


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """The URL of a Redis of its own, which keeps nothing on disk."""
    port = free_port()
    options = {
        "--bind": "127.0.0.1",
        "--port": str(port),
        "--dir": str(folder),
        "--save": "",
        "--appendonly": "no",
    }
    command = ["redis-server", *(word for option in options.items() for word in option)]
    with (folder / "redis.log").open("ab") as log, child(command, env={}, log=log):
        wait_until_listening(port)
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def running_nginx(addresses: Mapping[str, str], folder: Path) -> Iterator[str]:
    """The base URL of the example's nginx before the servers with these addresses, by tag: a and b."""
    port = free_port()
    configuration = adapted(addresses, folder, port=port)
    command = ["nginx", "-e", str(folder / "nginx-error.log"), "-p", str(folder), "-c", str(configuration)]
    with (folder / "nginx.log").open("ab") as log, child([*command, "-g", "daemon off;"], env={}, log=log):
        wait_until_listening(port)
        yield f"http://127.0.0.1:{port}"


def adapted(addresses: Mapping[str, str], folder: Path, *, port: int) -> Path:
    """Write the example with these addresses, its port and its files under `folder`; return the path."""
    text = ADDRESS_IN_EXAMPLE.sub(lambda found: addresses[found[1]], CONFIGURATION.read_text())
    for old, new in {
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "/tmp/": f"{folder}/",
        "/dev/stderr": str(folder / "nginx-error.log"),
        "/dev/stdout": str(folder / "nginx-access.log"),
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


def wait_until_listening(port: int, timeout_s: float = 20.0) -> None:
    """Return when somebody listens on this loopback port. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nobody listens on port {port}")


@contextlib.contextmanager
def running_fleet(
    *, program: Sequence[str] = SERVE, settings: Mapping[str, str] | None = None
) -> Iterator[Fleet]:
    """Two ready servers, a and b, behind nginx, with a Redis of their own."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        redis = stack.enter_context(running_redis(folder))
        shared = {"SESSIONS": redis, **(settings or {})}
        servers = {
            tag: stack.enter_context(running_server(tag, folder, program=program, settings=shared))
            for tag in ("a", "b")
        }
        for server in servers.values():
            server.wait_until_ready()
        addresses = {tag: server.address for tag, server in servers.items()}
        url = stack.enter_context(running_nginx(addresses, folder))
        yield Fleet(url, servers, redis, folder)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone at the end, and that nginx's workers may write to."""
    with tempfile.TemporaryDirectory(prefix="second-glance-fleet-") as name:
        yield Path(name)
