"""A mapping that forgets, by age, count and bytes, oldest first; and remembers for a while what it forgot.

Not thread-safe: the event loop owns it. Nothing runs in the background; each call first drops what has
expired.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    n_bytes: int
    expires_at: float


class ExpiringStore(Generic[K, V]):
    """Values for `ttl_s` seconds after their last put. Reading does not renew: put order is expiry order."""

    def __init__(
        self,
        *,
        ttl_s: float,
        max_items: int,
        max_bytes: int | None = None,
        bytes_of: Callable[[V], int] = lambda _: 0,
        max_tombstones: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._bytes_of = bytes_of
        self._max_tombstones = max_tombstones
        self._clock = clock
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._tombstones: OrderedDict[K, None] = OrderedDict()
        self._n_bytes = 0

    def put(self, key: K, value: V) -> None:
        """Hold `value`, renewed; the oldest others make room for it."""
        self._drop(key)
        self._tombstones.pop(key, None)
        n_bytes = self._bytes_of(value)
        self._entries[key] = _Entry(value, n_bytes, self._clock() + self._ttl_s)
        self._n_bytes += n_bytes
        self._forget_expired()
        while len(self._entries) > 1 and self._is_over_budget():
            self._bury(next(iter(self._entries)))

    def get(self, key: K) -> V | None:
        self._forget_expired()
        entry = self._entries.get(key)
        return entry.value if entry else None

    def remove(self, key: K) -> V | None:
        """Forget on request: leaves no tombstone."""
        self._forget_expired()
        entry = self._drop(key)
        return entry.value if entry else None

    def has_forgotten(self, key: K) -> bool:
        """Whether `key` was held once and went by age or for room (as far back as tombstones reach)."""
        self._forget_expired()
        return key in self._tombstones

    def values(self) -> Iterator[V]:
        self._forget_expired()
        return (entry.value for entry in self._entries.values())

    def __len__(self) -> int:
        self._forget_expired()
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        self._forget_expired()
        return self._n_bytes

    def _is_over_budget(self) -> bool:
        too_large = self._max_bytes is not None and self._n_bytes > self._max_bytes
        return too_large or len(self._entries) > self._max_items

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.expires_at > now:
                return
            self._bury(key)

    def _bury(self, key: K) -> None:
        self._drop(key)
        self._tombstones[key] = None
        while len(self._tombstones) > self._max_tombstones:
            self._tombstones.popitem(last=False)

    def _drop(self, key: K) -> _Entry[V] | None:
        entry = self._entries.pop(key, None)
        if entry:
            self._n_bytes -= entry.n_bytes
        return entry
