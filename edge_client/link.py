"""What a client has learnt of its uplink from requests that it made anyway; nothing is sent to find out.

From the first byte of a request to the first byte of the reply pass a round trip, the upload, and the
server's own time, which the reply states. Small requests show the round trip, large ones the rate.

Not covered: what happens between them and before: opening a connection and TLS are left out of the time.
"""

from __future__ import annotations

import threading

_SMALL_BYTES = 1500  # up to here a request is one packet, and its upload takes no time of its own
_MEMORY = 0.5  # weight of what is already known when another upload arrives
_LEAST_S = 0.0005  # clocks and schedulers are not better than this


class Link:
    """Shared by a client's conversations, from any thread. None where nothing is known yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._round_trip_s: float | None = None
        self._bytes = 0.0
        self._seconds = 0.0

    def add(self, uplink_bytes: int, waited_s: float, server_s: float) -> None:
        """A request of `uplink_bytes` was answered `waited_s` after its first byte left."""
        on_the_way_s = max(_LEAST_S, waited_s - server_s)
        with self._lock:
            if uplink_bytes <= _SMALL_BYTES:
                known = self._round_trip_s
                # The least is the truest, but a link may become slower: what is known wears off.
                self._round_trip_s = on_the_way_s if known is None else min(1.2 * known, on_the_way_s)
                return
            upload_s = max(_LEAST_S, on_the_way_s - (self._round_trip_s or 0.0))
            self._bytes = self._bytes * _MEMORY + uplink_bytes
            self._seconds = self._seconds * _MEMORY + upload_s

    @property
    def round_trip_s(self) -> float | None:
        return self._round_trip_s

    @property
    def uplink_bytes_per_s(self) -> float | None:
        with self._lock:
            return self._bytes / self._seconds if self._seconds else None

    def seconds_for(self, uplink_bytes: int) -> float | None:
        """How long a request of that size is on its way, there and the reply back."""
        rate = self.uplink_bytes_per_s
        return None if rate is None else (self._round_trip_s or 0.0) + uplink_bytes / rate
