"""Runs the gateway until it is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from secondglance.client import AsyncEdgeClient
from secondglance.errors import UsageError
from secondglance.gateway.app import create_app
from secondglance.gateway.settings import GatewaySettings
from secondglance.settings import EdgeSettings

_GRACE_S = 20  # for requests in work when the gateway is told to stop


def serve(settings: GatewaySettings, edge: EdgeSettings, announce: Callable[[str], None]) -> None:
    """Announces the base URL once connections are taken. Raises UsageError if the address cannot be had."""
    with _listen(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        config = uvicorn.Config(
            create_app(settings, AsyncEdgeClient(settings=edge)),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_GRACE_S,
        )
        announce(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
        _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends normally when told to stop, not by the signal; a second interrupt does not wait for requests."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=128)
        # asyncio sets it only on sockets that were made with the protocol's number. Connections inherit it.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as exc:
        raise UsageError(f"cannot listen on {host}:{port}: {exc}") from exc
