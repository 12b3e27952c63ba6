"""The running process: uvicorn around the app, from the first signal to a clean end.

SIGTERM or SIGINT: not ready at once, no new connections, work in flight finished within the grace time,
then the end.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.connection import connection_factory
from server.engine.protocol import Engine
from server.parts import ServerParts
from server.settings import ServerSettings


class _DrainingServer(uvicorn.Server):
    """Turns `/readyz` off at the first signal; exits 0 after a graceful stop, not by the signal."""

    def __init__(self, config: uvicorn.Config, parts: ServerParts) -> None:
        super().__init__(config)
        self._parts = parts

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._parts.readiness.drain()
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def uvicorn_config(app: FastAPI, settings: ServerSettings, **options: Any) -> uvicorn.Config:
    """How uvicorn serves this app: one HTTP parser whatever else is installed, no websockets, our limits.

    `options` are further ones of uvicorn, of which a test may need some.
    """
    parts: ServerParts = app.state.parts
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=connection_factory(settings, parts.metrics.refused),  # type: ignore[arg-type]  # any callable
        ws="none",
        proxy_headers=False,  # nothing here looks at the client's address or scheme
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        **options,
    )


def run_until_stopped(settings: ServerSettings, engine: Engine | None = None) -> bool:
    """Serve until a signal comes; False if it stopped because the model could not be loaded."""

    def stop() -> None:
        server.should_exit = True

    app = create_app(settings, engine, on_load_failure=stop)
    parts: ServerParts = app.state.parts
    server = _DrainingServer(uvicorn_config(app, settings), parts)
    server.run()
    return not parts.readiness.has_failed
