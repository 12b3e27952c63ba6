"""Prometheus gauges of what an app holds and is right now, read when somebody asks for the metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Gauge

from secondglance_server.engine.protocol import EngineInfo
from secondglance_server.http.state import ServerParts
from secondglance_server.telemetry.metrics import PREFIX


def show_state(parts: ServerParts) -> None:
    """Add the gauges of `parts` to its metrics; once per app."""

    def show(name: str, says: str, value: Callable[[], float]) -> None:
        Gauge(PREFIX + name, says, registry=parts.metrics.registry).set_function(value)

    settings, device, sessions, images = parts.settings, parts.device, parts.sessions, parts.images
    show("ready", "1 if the server wants requests, 0 if not.", lambda: parts.readiness.is_ready)
    show("queue_depth", "Answers that wait for the device.", lambda: device.depth)
    show("queue_limit", "Answers that may wait before requests are refused.", lambda: settings.max_queue)
    show("sessions", "Inferences remembered.", lambda: len(sessions))
    show(
        "sessions_limit",
        "Above it who holds most loses its oldest.",
        lambda: settings.max_sessions,
    )
    show("session_bytes", "Encoded images of inferences that wait for a patch.", lambda: sessions.n_bytes)
    show("stored_images", "Encoded images that may be asked about by id.", lambda: len(images))
    show("stored_image_bytes", "Bytes of these images.", lambda: images.n_bytes)
    show("idempotent_replies", "Replies remembered by idempotency key.", lambda: len(parts.replies))
    show("prefix_cache_bytes", "The engine's cached image prefixes.", lambda: _cache_bytes(parts))


def show_model(parts: ServerParts, info: EngineInfo) -> None:
    """The loaded model as labels of a gauge that is always 1; once per app."""
    labels = {"model": info.name, "family": info.family, "device": info.device, "dtype": info.dtype}
    Gauge(
        f"{PREFIX}model_info", "The loaded model; always 1.", labels, registry=parts.metrics.registry
    ).labels(**labels).set(1)


def _cache_bytes(parts: ServerParts) -> int:
    return parts.engine.held_bytes if parts.engine is not None else 0
