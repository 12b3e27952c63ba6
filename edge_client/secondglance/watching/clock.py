"""A clock for ages: steps of the wall clock do not move it, and it goes on through restarts.

A board without a battery starts in 1970 and jumps when it finds a time server; what waits on its disk is no
older for that. Not counted: the time during which the board was off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Uptime:
    """Seconds since the start of the system that `boot` names; "" where systems have no names."""

    boot: str
    seconds: float


def read_uptime() -> Uptime:
    """Return the time since the board started, suspended time included where the system counts it."""
    boot = ""
    with suppress(OSError):
        boot = _BOOT_ID.read_text().strip()
    counts = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Uptime(boot, time.clock_gettime(counts))


class AgeClock:
    """Seconds since the state file was made, as far as a board was on. Call it for the time now.

    `was` and `age_s` are what an earlier clock of the same file last saved.
    """

    def __init__(
        self, was: Uptime | None = None, age_s: float = 0.0, *, read: Callable[[], Uptime] = read_uptime
    ) -> None:
        self._read = read
        self._was = was
        self._age_s = age_s
        self.now()

    def __call__(self) -> float:
        """Return the age in seconds."""
        return self.now()[1]

    def now(self) -> tuple[Uptime, float]:
        """Return the system's time and the age that belongs to it, to be saved together."""
        uptime, was = self._read(), self._was
        if was is not None:
            same = was.boot == uptime.boot and was.seconds <= uptime.seconds
            self._age_s += uptime.seconds - was.seconds if same else uptime.seconds
        self._was = uptime
        return uptime, self._age_s
