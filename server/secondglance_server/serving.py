"""The running process: uvicorn around the app, from the first signal to a clean end.

SIGTERM or SIGINT: not ready at once and no new inferences; work in flight is finished, and clients that were
asked for a patch may still send it, within the grace time; then the end. A device that is given up ends the
process, too, with a failure.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any, Final, NoReturn

import uvicorn
from fastapi import FastAPI

from secondglance_protocol.defaults import DEFAULT_LIMITS
from secondglance_server.app import create_app
from secondglance_server.engine.protocol import Engine
from secondglance_server.errors import ListenError, SettingsError
from secondglance_server.http.connection import connection_factory
from secondglance_server.http.state import ServerState
from secondglance_server.settings import ServerSettings

KEEP_ALIVE_S: Final = int(
    DEFAULT_LIMITS.keep_alive_s
)  # longer than clients keep one (httpx 5 s), or the two collide
_BACKLOG: Final = 2048  # connections that wait to be accepted, as uvicorn's own default
_MARGIN_S = 10.0  # to close connections and the engine, beyond the grace


class _DrainingServer(uvicorn.Server):
    """Drains at the first signal, listening until nothing is owed; exits by itself, not by the signal."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state = state
        self._drained_by: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drained_by is None:
            grace_s = self._state.settings.shutdown_grace_s
            self._state.readiness.drain()
            self._drained_by = time.monotonic() + grace_s
            _end_by_force(after_s=grace_s + _MARGIN_S)
        elif sig == signal.SIGINT:
            self.should_exit = self.force_exit = True

    def fail(self) -> None:
        """Stop at once: nobody can be helped by waiting."""
        self.config.timeout_graceful_shutdown = 1
        self.should_exit = True
        _end_by_force(after_s=_MARGIN_S)

    async def on_tick(self, counter: int) -> bool:
        if self._drained_by is not None and not self.should_exit:
            left_s = self._drained_by - time.monotonic()
            self.should_exit = self._state.owes_nothing or left_s <= 0
            self.config.timeout_graceful_shutdown = max(1, math.ceil(left_s))
        return await super().on_tick(counter)


def _end_by_force(*, after_s: float) -> None:
    """The last resort against a process that hangs while it stops; a daemon: a clean end does not wait."""
    timer = threading.Timer(after_s, os._exit, (1,))
    timer.daemon = True
    timer.start()


def uvicorn_config(app: FastAPI, settings: ServerSettings, **options: Any) -> uvicorn.Config:
    """How uvicorn serves this app: one HTTP parser whatever else is installed, no websockets, our limits.

    `options` are further ones of uvicorn, of which a test may need some.
    """
    state: ServerState = app.state.server
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=connection_factory(settings, state.metrics.refused),  # type: ignore[arg-type]  # any callable
        ws="none",
        proxy_headers=False,  # nothing here looks at the client's address or scheme
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        **options,
    )


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of `host`. Raises ListenError."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address[:2]) for family, _, _, _, address in found):
            sockets.append(socket.create_server(address, family=family, backlog=_BACKLOG))
            # asyncio sets it only on sockets made with the protocol's number. Connections inherit it.
            sockets[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as exc:  # UnicodeError: no name that could be looked up
        for listening in sockets:
            listening.close()
        raise ListenError(f"cannot listen on {host} port {port}: {_reason(exc)}") from exc
    return sockets


def _reason(exc: OSError | UnicodeError) -> str:
    """Return the system's words, to which Python may have added the address."""
    if isinstance(exc, OSError) and not isinstance(exc, socket.gaierror) and exc.errno:
        return os.strerror(exc.errno)
    return getattr(exc, "strerror", None) or str(exc)


def run_until_stopped(settings: ServerSettings, engine: Engine | None = None) -> bool:
    """Serve until a signal comes; return False if it stopped for want of a model or of a working device.

    Raises ListenError, before anything is loaded, and SettingsError if the model that was asked for cannot be
    served whenever it is tried.
    """
    sockets = open_sockets(settings.host, settings.port)
    app = create_app(settings, engine, on_failure=lambda: server.fail())
    state: ServerState = app.state.server
    server = _DrainingServer(uvicorn_config(app, settings), state)
    server.run(sockets)
    if state.readiness.mistake:
        raise SettingsError(state.readiness.mistake)
    return not state.readiness.has_failed


def leave(*, is_well: bool) -> NoReturn:
    """End the process without waiting for threads, one of which may be decoding or hang on the device."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0 if is_well else 1)
