"""Two real namespaces, where they can be made: what crosses the cable, and what the rate does to it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import pytest

from lab.errors import LabError
from lab.places.counters import Counters, parsed, reading
from lab.places.namespaces import INTERFACE, SERVER_ADDRESS, Namespaces, joined
from lab.relay.links import LINKS, Link

pytestmark = pytest.mark.live

SINK = """
import socket
listener = socket.create_server(("0.0.0.0", 7000))
while True:
    connection, _ = listener.accept()
    while connection.recv(65536):
        pass
    connection.close()
"""
SOURCE = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000)) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[Namespaces]:
    try:
        making = joined()
        namespaces = making.__enter__()
    except LabError as exc:
        pytest.skip(f"no namespaces here: {exc} (root on Linux, apt-get install iproute2)")
    try:
        with namespaces.start("server", sys.executable, "-c", SINK):
            deadline = time.monotonic() + 60
            while not _is_open(namespaces) and time.monotonic() < deadline:
                time.sleep(0.05)
            yield namespaces
    finally:
        making.__exit__(None, None, None)


def _is_open(pair: Namespaces) -> bool:
    try:
        send(pair, 0)
    except LabError:
        return False
    return True


def send(pair: Namespaces, size: int) -> float:
    started = time.monotonic()
    pair.run("edge", sys.executable, "-c", SOURCE, SERVER_ADDRESS, str(size), timeout_s=120)
    return time.monotonic() - started


def counted(pair: Namespaces, side: str) -> Counters:
    return parsed(pair.run(side, *reading(INTERFACE)))


def test_frames_add_three_to_ten_percent_and_both_ends_agree(pair: Namespaces) -> None:
    """300 kB in segments of 1,448 bytes with 66 of headers: 4.6 %, the handshake and the end besides."""
    edge, server = counted(pair, "edge"), counted(pair, "server")
    send(pair, 300_000)
    edge, server = counted(pair, "edge") - edge, counted(pair, "server") - server
    assert 0.03 < edge.tx_bytes / 300_000 - 1 < 0.10
    assert edge.tx_packets >= 300_000 / 1_448
    assert (edge.tx_bytes, edge.rx_bytes) == (server.rx_bytes, server.tx_bytes)


def test_offload_is_off(pair: Namespaces) -> None:
    for side in ("edge", "server"):
        shown = pair.run(side, sys.executable, "-m", "lab", "offload", INTERFACE, "--only-show")
        assert json.loads(shown) == {"tso": False, "gso": False, "gro": False}


def test_a_shaped_cable_takes_its_time(pair: Namespaces) -> None:
    slow = next(link for link in LINKS if link.bits_per_s == 1_000_000)
    pair.shape(slow)
    try:
        assert send(pair, 100_000) > 0.8 * 100_000 * 8 / 1_000_000
    finally:
        pair.shape(Link("free again", 0))
