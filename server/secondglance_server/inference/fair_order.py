"""Whose key goes when there is no room: the oldest of the owner that holds most.

So what one owner puts in pushes out its own, and nothing of an owner that holds less. Knows keys, owners and
sizes; nothing of values and time. Finding the owner takes a look at each of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Share(Generic[K]):
    """What one owner holds, oldest first, with the bytes of each."""

    keys: OrderedDict[K, int] = field(default_factory=OrderedDict)
    n_bytes: int = 0


class FairOrder(Generic[K]):
    """Keys by owner, in the order in which they were added last."""

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
