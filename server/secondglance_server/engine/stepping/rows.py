"""The keys and values of answers that are decoded together: a buffer for each layer, a row for each answer.

Every row has a length of its own, so rows come and go between two steps. A row that comes is copied behind
the others; of one that goes, the last row takes the place. Rows that are all equally long, without padding,
need no mask: `visible` is None then, and stays None where nothing joins. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from secondglance_server.engine.kv_cache import RoomyLayer, rounded_up


class SlotLayer(RoomyLayer):  # type: ignore[no-untyped-call]  # as its base
    """Writes one token of each row at the slot that a tensor names, and shows the first `shown` slots."""

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor, shown: int) -> None:
        super().__init__(keys.shape[2])
        self.keys, self.values, self.is_initialized = keys, values, True
        self.length = shown - 1
        self._slots, self._shown = slots, shown

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys, values = self.buffers
        if len(keys) == 1:
            keys.index_copy_(2, self._slots, key_states)
            values.index_copy_(2, self._slots, value_states)
        else:
            rows = torch.arange(len(keys), device=keys.device)
            keys[rows, :, self._slots] = key_states[:, :, 0]
            values[rows, :, self._slots] = value_states[:, :, 0]
        return keys[:, :, : self._shown], values[:, :, : self._shown]


@dataclass(slots=True, eq=False)
class Rows:
    """`states`: keys and values of each layer in turn, [room, heads, capacity, width], of which the first
    `len(lengths)` rows are in use. `lengths`: used slots of each row; `ends`: how many it may come to use.
    `positions` [axes, B, 1] and `slots` [B]: of the next token. `visible` bool [B, capacity]."""

    states: list[Tensor]
    lengths: list[int]
    ends: list[int]
    positions: Tensor
    slots: Tensor
    visible: Tensor | None = None

    @classmethod
    def of(
        cls, cache: Cache, *, visible: Tensor | None, positions: Tensor, new_tokens: Sequence[int]
    ) -> Rows:
        """The rows of a prefilled cache, in its own buffers. `visible` bool [B, tokens]."""
        layers = cast("list[RoomyLayer]", cache.layers)
        states = [buffer for layer in layers for buffer in layer.buffers]
        count, length = len(new_tokens), layers[0].length
        rows = cls(
            states,
            lengths=[length] * count,
            ends=[length + new for new in new_tokens],
            positions=positions.expand(-1, count, -1).clone(),
            slots=torch.full((count,), length, device=states[0].device),
        )
        if visible is not None:
            rows.visible = rows._all_visible()
            rows.visible[:, :length] = visible
        return rows

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        return int(self.states[0].shape[2])

    @property
    def inputs(self) -> list[Tensor]:
        """Positions, slots, visible, then keys and values: what a step on whole buffers works on."""
        if self.visible is None:
            self.visible = self._all_visible()
        return [self.positions, self.slots, self.visible, *(state[: len(self)] for state in self.states)]

    def has_room_for(self, tokens: int) -> bool:
        """Whether every row can take so many more."""
        return max(self.lengths) + tokens <= self.capacity

    def is_in(self, buffer: Tensor) -> bool:
        """Whether the rows are written into that very buffer."""
        return self.states[0] is buffer

    def advance(self) -> None:
        """Tell that a step has written one token of each row."""
        self.lengths = [length + 1 for length in self.lengths]

    def append(self, others: Rows) -> None:
        """Copy the rows of `others` behind these."""
        before, count = len(self), len(self) + len(others)
        self._make_room(count, max(*self.ends, *others.ends))
        visible = torch.zeros(count, self.capacity, dtype=torch.bool, device=self.slots.device)
        for start, rows in ((0, self), (before, others)):
            part = rows._all_visible() if rows.visible is None else rows.visible
            width = min(part.shape[1], self.capacity)
            visible[start : start + len(rows), :width] = part[:, :width]
        for target, source in zip(self.states, others.states, strict=True):
            _copy_rows(source, others.lengths, target, before)
        self.visible = visible
        self.positions = torch.cat([self.positions, others.positions], dim=1)
        self.slots = torch.cat([self.slots, others.slots])
        self.lengths += others.lengths
        self.ends += others.ends

    def remove(self, row: int) -> None:
        """Take one row out; the last one takes its place."""
        last = len(self) - 1
        if row != last:
            for state in self.states:
                state[row].copy_(state[last])
        order = [last if each == row else each for each in range(last)]
        self.lengths = [self.lengths[each] for each in order]
        self.ends = [self.ends[each] for each in order]
        index = torch.tensor(order, dtype=torch.long, device=self.slots.device)
        self.positions, self.slots = self.positions[:, index], self.slots[index]
        if self.visible is not None:
            self.visible = self.visible[index]

    def copy(self) -> Rows:
        """Return these rows in buffers of their own."""
        visible = None if self.visible is None else self.visible.clone()
        states = [state[: len(self)].clone() for state in self.states]
        positions, slots = self.positions.clone(), self.slots.clone()
        return Rows(states, list(self.lengths), list(self.ends), positions, slots, visible)

    def _all_visible(self) -> Tensor:
        visible = torch.zeros(len(self), self.capacity, dtype=torch.bool, device=self.slots.device)
        for row, length in enumerate(self.lengths):
            visible[row, :length] = True
        return visible

    def _make_room(self, count: int, capacity: int) -> None:
        """Move into larger buffers if `count` rows of `capacity` tokens do not fit."""
        room = len(self.states[0])
        if count <= room and capacity <= self.capacity:
            return
        room = room if count <= room else 1 << (count - 1).bit_length()
        capacity = max(self.capacity, rounded_up(capacity))
        shapes = [(room, state.shape[1], capacity, state.shape[3]) for state in self.states]
        states = [
            state.new_zeros(shape) for state, shape in zip(self.states, shapes, strict=True)
        ]  # all of them before any is replaced: there may be no memory
        for old, new in zip(self.states, states, strict=True):
            _copy_rows(old, self.lengths, new, 0)
        self.states = states


def _copy_rows(source: Tensor, lengths: Sequence[int], target: Tensor, start: int) -> None:
    """Copy the used slots and clear the rest: a mask hides it, but garbage that is no number would spread."""
    longest = max(lengths)
    rows = slice(start, start + len(lengths))
    target[rows, :, :longest] = source[: len(lengths), :, :longest]
    target[rows, :, longest:] = 0
