"""Keeps one source going: contains what goes wrong, comes again with growing pauses, and says so once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from secondglance.conversation.failures import wait_s
from secondglance.errors import EdgeError, UsageError
from secondglance.retry import RetryPolicy

_REASONS = 5  # said of one spell of trouble


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """How a source fares; `seen_at` is when it last gave a sign of life, in epoch seconds."""

    name: str
    state: Literal["starting", "up", "failing", "ended"] = "starting"
    error: str | None = None
    restarts: int = 0
    seen_at: float | None = None


class SourceEndedError(EdgeError):
    """A source that should go on has ended."""


class Supervisor:
    """Runs `attempt` until it returns, which means that the source has ended for good.

    The attempt calls `alive` whenever the source works, and `trouble` for what it waits out itself. After
    `steady_s` without trouble the source counts as back. `clock` is monotonic.
    """

    def __init__(
        self,
        name: str,
        *,
        policy: RetryPolicy,
        stopping: threading.Event,
        warn: Callable[[str], None],
        steady_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._policy = policy
        self._stopping = stopping
        self._warn = warn
        self.steady_s = steady_s
        self._clock = clock
        self._failures = 0
        self._restarts = 0
        self._said: set[str] = set()
        self._last_trouble = clock()
        self.last_turn = clock()
        self.health = SourceHealth(name)

    def run(self, attempt: Callable[[], None]) -> None:
        """Return when the source has ended or `stopping` is set. Raises UsageError: no time mends that."""
        while not self._stopping.is_set():
            try:
                attempt()
                self.health = SourceHealth(self._name, "ended", None, self._restarts, self.health.seen_at)
                return
            except UsageError:
                raise
            except Exception as exc:  # whatever it was, the source must not stay dead
                if self._stopping.is_set():
                    return
                self.trouble(reason_of(exc))
            self._stopping.wait(wait_s(self._policy, self._failures))
            self._failures += 1
            self._restarts += 1

    def turn(self) -> None:
        """Note that the source's thread goes round: it does not hang."""
        self.last_turn = self._clock()

    def alive(self) -> None:
        """Note that the source works."""
        self._failures = 0
        self.turn()
        self.health = SourceHealth(self._name, "up", None, self._restarts, time.time())
        if self._said and self.last_turn - self._last_trouble > self.steady_s:
            self._warn(f"{self._name}: it is back")
            self._said.clear()

    def trouble(self, reason: str) -> None:
        """Note trouble and say it, unless that was said since all was well."""
        self.last_turn = self._last_trouble = self._clock()
        self.health = SourceHealth(self._name, "failing", reason, self._restarts, self.health.seen_at)
        if reason not in self._said and len(self._said) < _REASONS:
            self._said.add(reason)
            self._warn(f"{self._name}: {reason}; trying again until it is back")


def reason_of(error: Exception) -> str:
    """Return what to say of an error; one that nobody expected is named by its type."""
    if isinstance(error, EdgeError):
        return str(error)
    return (
        f"unexpected {type(error).__name__}: {error}" if str(error) else f"unexpected {type(error).__name__}"
    )
