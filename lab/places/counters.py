"""The kernel's counters of a network interface, and how to read them around a conversation.

They count frames with all headers from Ethernet up, as `/sys/class/net/NAME/statistics` shows them in the
reader's own network namespace. What is queued is not counted yet, so a reading waits until nothing moves.
"""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

SYSFS = Path("/sys/class/net")
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Counters:
    tx_bytes: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    rx_packets: int = 0

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))


def _files(interface: str, sysfs: Path) -> list[Path]:
    return [sysfs / interface / "statistics" / field.name for field in fields(Counters)]


def read(interface: str, sysfs: Path = SYSFS) -> Counters:
    """Return the counters as they are."""
    return Counters(*(int(file.read_text()) for file in _files(interface, sysfs)))


def reading(interface: str) -> tuple[str, ...]:
    """Return the command whose output `parsed` understands, for places where this package is not."""
    return ("cat", *(str(file) for file in _files(interface, SYSFS)))


def parsed(output: str) -> Counters:
    """Return the counters from the output of `reading`."""
    return Counters(*(int(line) for line in output.split()))


def read_at_rest(interface: str, quiet_s: float, *, limit_s: float = 10.0, sysfs: Path = SYSFS) -> Counters:
    """Return the counters once nothing has moved for `quiet_s`; after `limit_s` as they are."""
    started = changed_at = time.monotonic()
    last = read(interface, sysfs)
    while (now := time.monotonic()) - changed_at < quiet_s and now - started < limit_s:
        time.sleep(_POLL_S)
        latest = read(interface, sysfs)
        if latest != last:
            last, changed_at = latest, time.monotonic()
    return last


@dataclass(frozen=True, slots=True)
class Idle:
    """What moves while nobody asks: neighbour discovery, multicast of the bridge; bytes per second."""

    tx_bytes_per_s: float = 0.0
    rx_bytes_per_s: float = 0.0

    @classmethod
    def measured(cls, interface: str, seconds: float, *, sysfs: Path = SYSFS) -> Idle:
        """Measure for that many seconds."""
        before, started = read(interface, sysfs), time.monotonic()
        time.sleep(seconds)
        moved, passed_s = read(interface, sysfs) - before, time.monotonic() - started
        return cls(moved.tx_bytes / passed_s, moved.rx_bytes / passed_s)
