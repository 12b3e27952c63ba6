"""What one key may use of the server: requests and bytes a minute, requests at a time.

Token buckets that hold a minute's worth. Bytes are charged as they arrive, so a bucket may run into debt by
what is in flight; the next request waits until the debt is paid. Not thread-safe: the event loop owns them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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


class _Quota:
    """The use of one key."""

    def __init__(self, key: ApiKey, clock: Callable[[], float]) -> None:
        self.requests = TokenBucket(key.requests_per_min, clock) if key.requests_per_min else None
        self.bytes = TokenBucket(key.bytes_per_min, clock) if key.bytes_per_min else None
        self.n_running = 0


class MemoryQuotaStore:
    """The use of each key of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quotas: dict[ApiKey, _Quota] = {}

    @asynccontextmanager
    async def request(self, key: ApiKey) -> AsyncIterator[None]:
        quota = self._quota(key)
        if key.max_concurrent is not None and quota.n_running >= key.max_concurrent:
            raise too_many_at_a_time(key)
        if quota.bytes is not None and (wait_s := quota.bytes.wait_s(1)):
            raise too_many_bytes(wait_s)
        if quota.requests is not None:
            if wait_s := quota.requests.wait_s(1):
                raise too_many_requests(wait_s)
            quota.requests.take(1)
        quota.n_running += 1
        try:
            yield
        finally:
            quota.n_running -= 1

    def charge(self, key: ApiKey, n_bytes: int) -> None:
        quota = self._quota(key)
        if quota.bytes is not None:
            quota.bytes.take(n_bytes)

    def _quota(self, key: ApiKey) -> _Quota:
        if key not in self._quotas:
            self._quotas[key] = _Quota(key, self._clock)
        return self._quotas[key]


def too_many_at_a_time(key: ApiKey) -> ProblemError:
    """Return the problem of a key whose requests at a time are all running."""
    return _limited(f"this key has {key.max_concurrent} requests at a time", 1.0)


def too_many_bytes(wait_s: float) -> ProblemError:
    """Return the problem of a key that owes bytes."""
    return _limited("this key has sent its bytes for now", wait_s)


def too_many_requests(wait_s: float) -> ProblemError:
    """Return the problem of a key without a request left."""
    return _limited("this key has made its requests for now", wait_s)


def _limited(detail: str, retry_after_s: float) -> ProblemError:
    return ProblemError(ErrorCode.RATE_LIMITED, detail, retry_after_s)
