"""The lab on two network namespaces: server and relay in one, the edge in the other."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.places.counters import Counters, parsed, reading
from lab.places.namespaces import INTERFACE, SERVER_ADDRESS, Namespaces, joined
from lab.relay.links import Link

_READING = reading(INTERFACE)
_SERVER = "http://127.0.0.1:8000"
_READY_TIMEOUT_S = 300.0
# Whole originals are refused by default, and take longer than a minute on the slowest link.
_ENVIRONMENT = {
    "SECONDGLANCE_SERVER_MAX_IMAGE_BYTES": "16777216",
    "SECONDGLANCE_SERVER_MAX_IMAGE_PIXELS": "25000000",
    "SECONDGLANCE_SERVER_BODY_TIMEOUT_S": "600",
    # On a busy machine two threads wait for each other; with one, computing takes the same time each time.
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class NamespacePlace:
    """A `Place`."""

    namespaces: Namespaces
    photos: str
    name: str = "network namespaces"
    outside_name: str = "the other end of the cable"
    interface: str = INTERFACE
    relay_host: str = SERVER_ADDRESS

    def lab(self, *arguments: str) -> str:
        return self.namespaces.run("edge", sys.executable, "-m", "lab", *arguments)

    def shape(self, link: Link) -> None:
        self.namespaces.shape(link)

    def inside(self) -> Counters:
        return parsed(self.namespaces.run("edge", *_READING))

    def outside(self) -> Counters:
        """Return the server's end of the cable: what it received is what the edge sent."""
        server = parsed(self.namespaces.run("server", *_READING))
        return Counters(server.rx_bytes, server.rx_packets, server.tx_bytes, server.tx_packets)


@contextlib.contextmanager
def namespace_place(photos: Path, log: Path) -> Iterator[NamespacePlace]:
    """Yield namespaces with a ready server and the relay. Raises LabError."""
    environment = [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
    with contextlib.ExitStack() as running:
        pair = running.enter_context(joined())
        output = running.enter_context(log.open("wb"))
        server = (
            "env",
            *environment,
            sys.executable,
            "-m",
            "secondglance_server.cli",
            "serve",
            "--port",
            "8000",
        )
        running.enter_context(pair.start("server", *server, log=output))
        relay = (sys.executable, "-m", "lab", "relay", "--listen", SERVER_ADDRESS, "--to", "127.0.0.1:8000")
        running.enter_context(pair.start("server", *relay, log=output))
        _wait_until_ready(pair, log)
        yield NamespacePlace(pair, str(photos))


def _wait_until_ready(pair: Namespaces, log: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(LabError):
            pair.run("server", sys.executable, "-m", "secondglance_server.cli", "health", "--url", _SERVER)
            return
        time.sleep(0.2)
    raise LabError(f"the server was not ready within {_READY_TIMEOUT_S:.0f} s; see {log}")
