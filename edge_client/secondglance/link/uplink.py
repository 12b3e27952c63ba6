"""What a client has learnt of its uplink from requests that it made anyway; nothing is sent to find out.

From the first byte of a request to the first byte of the reply pass a round trip, the upload, and the
server's own time, which the reply states: seconds = round trip + bytes / rate. Both are read from how the
last requests' seconds grow with their bytes. No single request is trusted with the round trip: the first
one, on a connection just opened, to a server that states no time for it, holds other delays than the rest.
Taken as the round trip they would be subtracted from every upload, and the rate come out too high. The line
is the Theil-Sen estimate (the weighted median of the slopes between all pairs), which a few late replies do
not move.

Not covered: what happens between requests, and opening a connection and TLS, which are left out of the time.
"""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

_SMALL_BYTES = 1500  # up to here a request is one packet, and says nothing of the rate by itself
_MEMORY = 16  # requests; a link that changes is known again after about half as many
_ENOUGH = 4  # requests whose replies state the server's time; then the others are left out
_LEAST_S = 0.0005  # clocks and schedulers are not better than this


class _Sample(NamedTuple):
    uplink_bytes: int
    on_the_way_s: float
    is_stated: bool


class _Line(NamedTuple):
    round_trip_s: float
    s_per_byte: float


class Uplink:
    """Shared by a client's conversations, from any thread. None where nothing is known yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque(maxlen=_MEMORY)
        self._line: _Line | None = None

    def add(self, uplink_bytes: int, waited_s: float, server_s: float | None) -> None:
        """A request of `uplink_bytes` was answered `waited_s` after its first byte left.

        `server_s` None: the reply does not state it, so it counts as none until others do.
        """
        with self._lock:
            on_the_way_s = max(_LEAST_S, waited_s - (server_s or 0.0))
            self._samples.append(_Sample(uplink_bytes, on_the_way_s, server_s is not None))
            stated = [sample for sample in self._samples if sample.is_stated]
            self._line = _fit(stated if len(stated) >= _ENOUGH else list(self._samples))

    @property
    def round_trip_s(self) -> float | None:
        """With whatever else every request waits for and no reply states."""
        with self._lock:
            if self._line is not None:
                return self._line.round_trip_s
            return min((sample.on_the_way_s for sample in self._samples), default=None)

    @property
    def uplink_bytes_per_s(self) -> float | None:
        with self._lock:
            return 1 / self._line.s_per_byte if self._line is not None else None

    def seconds_for(self, uplink_bytes: int) -> float | None:
        """How long a request of that size is on its way, there and the reply back."""
        with self._lock:
            line = self._line
        return None if line is None else line.round_trip_s + uplink_bytes * line.s_per_byte


def _fit(samples: Sequence[_Sample]) -> _Line | None:
    """None without an upload. The upload never took longer than all of the time, nor less than a clock shows.

    Uploads of one size show a rate only with that upper bound: the link may be faster.
    """
    uploads = [sample for sample in samples if sample.uplink_bytes > _SMALL_BYTES]
    if not uploads:
        return None
    slowest = min(sample.on_the_way_s / sample.uplink_bytes for sample in uploads)
    fastest = _LEAST_S / max(sample.uplink_bytes for sample in uploads)
    slope = _middle_slope(samples)
    s_per_byte = slowest if slope is None else min(slowest, max(fastest, slope))
    return _Line(
        max(0.0, statistics.median(s.on_the_way_s - s.uplink_bytes * s_per_byte for s in samples)), s_per_byte
    )


def _middle_slope(samples: Sequence[_Sample]) -> float | None:
    """The median of the slopes between two samples, each with the weight of its difference in bytes."""
    slopes = []
    for one, other in combinations(samples, 2):
        more = other.uplink_bytes - one.uplink_bytes
        if more:
            slopes.append(((other.on_the_way_s - one.on_the_way_s) / more, abs(more)))
    half = sum(weight for _, weight in slopes) / 2
    for slope, weight in sorted(slopes):
        half -= weight
        if half <= 0:
            return slope
    return None
