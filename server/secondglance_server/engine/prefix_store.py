"""Computed image prefixes, least recently used first out, within a budget of bytes. Knows nothing of what
they hold."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from secondglance_server.engine.protocol import AttentionMap, GridBox


class States(Protocol):
    """What a model keeps of tokens that it has seen."""

    @property
    def n_bytes(self) -> int: ...


S = TypeVar("S", bound=States)


@dataclass(slots=True, eq=False)
class StoredPrefix(Generic[S]):
    """A picture's share of a prompt, computed. `ids`: its tokens; `neutral`: the neutral prompt's map once
    it was asked for; `texts`: see `AttentionMap`."""

    ids: list[int]
    states: S
    texts: tuple[GridBox, ...] = ()
    neutral: AttentionMap | None = field(default=None)


class PrefixStore(Generic[S]):
    """Maps picture keys to prefixes. A prefix larger than the whole budget is not kept; losing one is
    never an error."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._entries: OrderedDict[str, StoredPrefix[S]] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        """Whether the prefix is there; may be asked from any thread, and counts as no use."""
        return key in self._entries

    def get(self, key: str) -> StoredPrefix[S] | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: str, prefix: StoredPrefix[S]) -> None:
        self._drop(key)
        if prefix.states.n_bytes > self._budget:
            return
        self._entries[key] = prefix
        self.held_bytes += prefix.states.n_bytes
        while self.held_bytes > self._budget:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        self._entries.clear()
        self.held_bytes = 0

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.held_bytes -= entry.states.n_bytes
