"""A mapping that forgets: by age, and by count and bytes at the cost of the owner that holds most.

What it forgot it remembers for a while. Not thread-safe: the event loop owns it. Nothing runs in the
background; each call first drops what has expired.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Share(Generic[K]):
    """What one owner holds, oldest first, with the bytes of each."""

    keys: OrderedDict[K, int] = field(default_factory=OrderedDict)
    n_bytes: int = 0


class FairOrder(Generic[K]):
    """Keys by owner, in the order in which they were added last; knows nothing of values and time.

    When there is no room, the oldest key of the owner that holds most goes: what one owner puts in pushes out
    its own, and nothing of an owner that holds less.
    """

    def __init__(self, owner_of: Callable[[K], Hashable]) -> None:
        self._owner_of = owner_of
        self._shares: dict[Hashable, _Share[K]] = {}
        self._n_keys = 0
        self.n_bytes = 0

    def __len__(self) -> int:
        return self._n_keys

    def __contains__(self, key: K) -> bool:
        share = self._shares.get(self._owner_of(key))
        return share is not None and key in share.keys

    def add(self, key: K, n_bytes: int = 0) -> None:
        """As the newest, whether or not it is there."""
        self.discard(key)
        share = self._shares.setdefault(self._owner_of(key), _Share())
        share.keys[key] = n_bytes
        share.n_bytes += n_bytes
        self.n_bytes += n_bytes
        self._n_keys += 1

    def discard(self, key: K) -> None:
        owner = self._owner_of(key)
        share = self._shares.get(owner)
        if share is None or key not in share.keys:
            return
        n_bytes = share.keys.pop(key)
        share.n_bytes -= n_bytes
        self.n_bytes -= n_bytes
        self._n_keys -= 1
        if not share.keys:
            del self._shares[owner]

    def next_to_go(self, most: Literal["keys", "bytes"], *, spare: K | None = None) -> K | None:
        """The oldest of the owner with the most keys or bytes; not `spare`, and None if there is no other."""
        shares = sorted(
            self._shares.values(),
            key=lambda share: share.n_bytes if most == "bytes" else len(share.keys),
            reverse=True,
        )
        return next((key for share in shares for key in share.keys if key != spare), None)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    expires_at: float


class ExpiringStore(Generic[K, V]):
    """Values for `ttl_s` seconds after their last put. Reading does not renew: put order is expiry order.

    Without `owner_of` all keys have one owner, and then it is the oldest that goes.
    """

    def __init__(
        self,
        *,
        ttl_s: float,
        max_items: int,
        max_bytes: int | None = None,
        bytes_of: Callable[[V], int] = lambda _: 0,
        max_tombstones: int = 0,
        owner_of: Callable[[K], Hashable] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._bytes_of = bytes_of
        self._max_tombstones = max_tombstones
        self._clock = clock
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._order = FairOrder(owner_of)
        self._tombstones = FairOrder(owner_of)

    def put(self, key: K, value: V) -> None:
        """Hold `value`, renewed; whoever holds most makes room for it, oldest first."""
        self._drop(key)
        self._tombstones.discard(key)
        self._entries[key] = _Entry(value, self._clock() + self._ttl_s)
        self._order.add(key, self._bytes_of(value))
        self._forget_expired()
        if len(self._entries) > self._max_items:
            self._make_room(key, "keys")
        while self._max_bytes is not None and self.n_bytes > self._max_bytes and len(self._entries) > 1:
            self._make_room(key, "bytes")

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
        return self._order.n_bytes

    def _make_room(self, newest: K, most: Literal["keys", "bytes"]) -> None:
        key = self._order.next_to_go(most, spare=newest)
        assert key is not None, "there is another"
        self._bury(key)

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.expires_at > now:
                return
            self._bury(key)

    def _bury(self, key: K) -> None:
        self._drop(key)
        self._tombstones.add(key)
        if len(self._tombstones) > self._max_tombstones:
            oldest = self._tombstones.next_to_go("keys")
            assert oldest is not None, "there is at least the one just added"
            self._tombstones.discard(oldest)

    def _drop(self, key: K) -> _Entry[V] | None:
        self._order.discard(key)
        return self._entries.pop(key, None)
