"""The server as a Ray Serve application, for those who have a Ray cluster.

    PYTHONPATH=deploy/ray serve run deploy/ray/serve.yaml

Each replica is a whole server with a model of its own. Ray decides which one a request goes to, so sessions
must be shared: SECONDGLANCE_SERVER_SESSIONS. Settings come from the environment, as everywhere.

Two things differ from `secondglance-server serve`. Ray's proxy reads HTTP in place of our strict parser. And
every replica listens on all interfaces of its node, for Ray's own calls: keep its ports behind a firewall.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from secondglance_server.app import create_app
from secondglance_server.settings import ServerSettings, load_settings
from secondglance_server.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from ray.serve import Application


def build() -> FastAPI:
    """Return the server's app, which starts when its model is loaded: Ray sends no request before.

    Without a model, or with a dead device, the process ends, and Ray starts another one.
    """
    settings = load_settings()
    configure_logging(settings.log_level)
    app = create_app(settings, on_failure=lambda: os._exit(1))
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def until_loaded(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            while app.state.server.readiness.state == "loading":
                await asyncio.sleep(0.05)
            yield

    app.router.lifespan_context = until_loaded
    return app


def most_ongoing(settings: ServerSettings) -> int:
    """Return how many requests a replica takes at a time: more than it answers, so that it refuses itself.

    What Ray holds back waits without an end; the server refuses with a problem and Retry-After.
    """
    return 2 * (settings.max_queue + settings.max_batch) + settings.max_connections


def application(arguments: dict[str, str]) -> Application:
    """Return what `serve run` and `serve deploy` start; there are no arguments."""
    if arguments:
        raise ValueError(f"settings come from the environment, not from arguments: {', '.join(arguments)}")
    from ray import serve  # only Ray's own processes need it

    settings = load_settings()
    deployment = serve.deployment(
        serve.ingress(build)(),
        name="second-glance",
        max_ongoing_requests=most_ongoing(settings),
        graceful_shutdown_timeout_s=settings.shutdown_grace_s + 10,
    )
    return deployment.bind()
