"""Replies leave at once: header and body are two writes, and a waiting kernel holds the second for 40 ms."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from secondglance.gateway.serve import _listen
from secondglance_server.serving import open_sockets

LISTENERS: dict[str, Callable[[str], socket.socket]] = {
    "server": lambda host: open_sockets(host, 0)[0],
    "gateway": lambda host: _listen(host, 0),
}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", LISTENERS)
def test_accepted_connections_send_without_delay(name: str, host: str) -> None:
    with LISTENERS[name](host) as listening, socket.create_connection(listening.getsockname()[:2]):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
