"""What one key may use of the server: requests and bytes a minute, requests at a time.

Token buckets that hold a minute's worth. Bytes are charged as they arrive, so a bucket may run into debt by
what is in flight; the next request waits until the debt is paid. Not thread-safe: the event loop owns them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError
from secondglance_server.keys import ApiKey


class TokenBucket:
    """`per_min` tokens flow in each minute, and no more than that are held."""

    def __init__(self, per_min: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_min / 60
        self._most = float(per_min)
        self._held = self._most
        self._clock = clock
        self._filled_at = clock()

    def take(self, tokens: float) -> None:
        """Always possible: what is not there is owed."""
        self._refill()
        self._held -= tokens

    def wait_s(self, tokens: float) -> float:
        """Seconds until `tokens` are there; 0 if they are."""
        self._refill()
        return max(0.0, (tokens - self._held) / self._per_s)

    def _refill(self) -> None:
        now = self._clock()
        self._held = min(self._most, self._held + (now - self._filled_at) * self._per_s)
        self._filled_at = now


class BodyMeter:
    """Counts the bytes of one request's body as they are read, whichever layer reads them."""

    def __init__(self) -> None:
        self._uncharged = 0
        self._charge: Callable[[int], None] | None = None

    def count(self, n_bytes: int) -> None:
        """Note that so many more bytes were read."""
        if self._charge is None:
            self._uncharged += n_bytes
        else:
            self._charge(n_bytes)

    def charge_to(self, charge: Callable[[int], None]) -> None:
        """Call `charge` with what was read so far, and with all that is read from now on."""
        charge(self._uncharged)
        self._uncharged, self._charge = 0, charge


class Quota:
    """The use of one key."""

    def __init__(self, key: ApiKey, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests = TokenBucket(key.requests_per_min, clock) if key.requests_per_min else None
        self._bytes = TokenBucket(key.bytes_per_min, clock) if key.bytes_per_min else None
        self._max_concurrent = key.max_concurrent
        self._running = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around one request. Raises ProblemError RATE_LIMITED with the seconds to wait."""
        if self._max_concurrent is not None and self._running >= self._max_concurrent:
            raise _limited(f"this key has {self._max_concurrent} requests at a time", 1.0)
        if self._bytes is not None and (wait_s := self._bytes.wait_s(1)):
            raise _limited("this key has sent its bytes for now", wait_s)
        if self._requests is not None:
            if wait_s := self._requests.wait_s(1):
                raise _limited("this key has made its requests for now", wait_s)
            self._requests.take(1)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def charge(self, n_bytes: int) -> None:
        """Take bytes of request bodies, be they there or owed."""
        if self._bytes is not None:
            self._bytes.take(n_bytes)


def _limited(detail: str, retry_after_s: float) -> ProblemError:
    return ProblemError(ErrorCode.RATE_LIMITED, detail, retry_after_s)
