"""Whether the server wants requests: loading, ready, draining or failed, with the reason in words.

`watch` notices a device that does not answer any more: its thread has ended, or a call does not come back.
Nothing in this process can help then: a thread cannot be stopped, and the device's state is unknown. So the
server says that it is not ready, fails what waits, and ends for its supervisor to start it anew. A shared
store that is away comes back by itself: the server waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from secondglance_server.errors import ProblemError, not_ready
from secondglance_server.inference.async_engine import AsyncEngine

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0  # at a shared store

State = Literal["loading", "ready", "draining", "failed"]

_REASONS: dict[State, str] = {
    "loading": "the model is being loaded",
    "ready": "",
    "draining": "the server is shutting down",
    "failed": "the server has failed",
}


@dataclass(slots=True)
class Readiness:
    """One per app. `on_failure` is called when nothing will ever be answered: no model, or a dead device.

    `mistake`: what the operator must change before a start can succeed; empty if another start may.
    """

    state: State = "loading"
    on_failure: Callable[[], None] = lambda: None
    failure: str = ""
    lacks: str = ""
    """What the server needs and is away for now, in words."""
    mistake: str = ""

    def become_ready(self) -> None:
        """A server that was told to drain while it loaded stays draining."""
        if self.state == "loading":
            self.state = "ready"

    def drain(self) -> None:
        if self.state != "failed":
            self.state = "draining"

    def fail(self, why: str, *, mistake: str = "") -> None:
        self.state = "failed"
        self.failure = why
        self.mistake = mistake
        self.on_failure()

    @property
    def is_ready(self) -> bool:
        return self.state == "ready" and not self.lacks

    @property
    def has_failed(self) -> bool:
        return self.state == "failed"

    def check(self) -> None:
        """Raises ProblemError NOT_READY with the reason."""
        if not self.is_ready:
            raise not_ready(self.reason)

    @property
    def reason(self) -> str:
        """Why the server is not ready, in words."""
        return self.failure or _REASONS[self.state] or self.lacks


async def look_after(check: Callable[[], Awaitable[None]], readiness: Readiness) -> None:
    """Keep an eye on a shared store: not ready while it is away, ready when it is back. Cancel it to stop."""
    while True:
        await look_at(check, readiness)
        await asyncio.sleep(_LOOK_EVERY_S)


async def look_at(check: Callable[[], Awaitable[None]], readiness: Readiness) -> None:
    """Note whether the store answers."""
    try:
        await check()
        lacks = ""
    except ProblemError as problem:
        lacks = problem.detail
    if lacks and not readiness.lacks:
        _log.error("store away", extra={"reason": lacks})
    elif readiness.lacks and not lacks:
        _log.info("store back")
    readiness.lacks = lacks


async def watch(device: AsyncEngine, readiness: Readiness, *, max_call_s: float) -> None:
    """Wait until the device must be given up, and give it up. Cancel it to stop watching."""
    while (reason := _complaint(device, max_call_s)) is None:
        await asyncio.sleep(min(1.0, max_call_s / 4))
    _log.critical("device given up", extra={"reason": reason})
    readiness.fail(reason)
    device.abandon()


def _complaint(device: AsyncEngine, max_call_s: float) -> str | None:
    if device.death is not None:
        return device.death
    if device.call_age_s > max_call_s:
        return f"the device has not come back for {max_call_s:g} s"
    return None
