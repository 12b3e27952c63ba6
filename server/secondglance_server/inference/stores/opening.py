"""The stores that the settings ask for."""

from __future__ import annotations

import time
from collections.abc import Callable

from secondglance_server.errors import SettingsError
from secondglance_server.inference.stores.memory import memory_stores
from secondglance_server.inference.stores.protocol import Stores
from secondglance_server.settings import ENV_PREFIX, ServerSettings


def open_stores(
    settings: ServerSettings,
    observe: Callable[[str, str, float], None] = lambda verb, outcome, seconds: None,
    clock: Callable[[], float] = time.monotonic,
) -> Stores:
    """Return the stores; a shared one has not connected yet.

    `observe` is told the verb, outcome and seconds of what is asked of a shared store; `clock` says how old
    what is remembered in memory is. Raises SettingsError.
    """
    if settings.sessions == "memory":
        return memory_stores(settings, clock)
    try:
        from secondglance_server.inference.stores.redis.opening import redis_stores  # an extra
    except ImportError as exc:
        raise SettingsError(
            f"{ENV_PREFIX}SESSIONS=***: pip install 'second-glance-server[redis]' ({exc})"
        ) from exc
    try:
        return redis_stores(settings, observe)
    except ValueError as exc:
        raise SettingsError(f"{ENV_PREFIX}SESSIONS=***: {type(exc).__name__}: not a URL of Redis") from exc
