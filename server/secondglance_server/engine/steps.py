"""From a prefilled batch on, token by token: eagerly, or by replaying a recording of one step.

A small model's step is mostly the interpreter's time. A recording (TorchScript, which needs no compiler on
the machine) runs the same operations without it. It holds for one shape, a number of rows over buffers of one
capacity: keys and values are written at a slot, a mask hides what lies behind it. Recording costs what it
saves in some hundred steps, so a shape is recorded once it has run that often. A recording that does not
compute what the eager step computes is not used. torch calls the tracer deprecated; its successors want a
compiler (`docs/log.md`).
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from secondglance_server.engine.adapters.protocol import Adapter, Chunk
from secondglance_server.engine.kv_cache import RoomyLayer
from secondglance_server.engine.prefill import Prefilled

_log = logging.getLogger("secondglance_server.engine")

DecodeStep = Callable[[Tensor], Tensor]  # tokens [B] to the next logits [B, vocabulary]

STEPS_BEFORE_RECORDING = 128
_MOST_RECORDINGS = 16  # a few megabytes each: batches of 1 to 8 at two capacities
_TOLERANCE = {torch.float32: 1e-4}  # of the largest logit
_HALF_TOLERANCE = 5e-2


class EagerStep:
    """The model's own forward pass over all that is in the cache."""

    def __init__(self, adapter: Adapter, state: Prefilled) -> None:
        self._adapter, self._cache = adapter, state.cache
        self._visible, self._positions = state.visible, state.next_positions

    def __call__(self, tokens: Tensor) -> Tensor:
        if self._visible is not None:
            new = self._visible.new_ones(len(tokens), 1)
            self._visible = torch.cat([self._visible, new], dim=1)
        chunk = Chunk(self._adapter.embed(tokens[:, None]), self._positions, visible=self._visible)
        self._positions = self._positions + 1
        return self._adapter.forward(chunk, self._cache)


class _SlotLayer(RoomyLayer):  # type: ignore[no-untyped-call]  # as its base
    """Writes one token at a slot that a tensor names and shows the whole buffer: every step the same work."""

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().__init__(keys.shape[2])
        self.keys, self.values, self.slot, self.is_initialized = keys, values, slot, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys, values = self.buffers
        keys.index_copy_(2, self.slot, key_states)
        values.index_copy_(2, self.slot, value_states)
        return keys, values


def fixed_step(adapter: Adapter) -> Callable[..., Tensor]:
    """A step over (tokens [B], positions [axes, B, 1], slot [1], visible [B, capacity], keys and values of
    each layer): it moves positions, slot and mask on by one token."""

    def step(tokens: Tensor, positions: Tensor, slot: Tensor, visible: Tensor, *states: Tensor) -> Tensor:
        visible.index_fill_(1, slot, 1)
        layers: list[Any] = [
            _SlotLayer(keys, values, slot) for keys, values in zip(states[::2], states[1::2], strict=True)
        ]
        chunk = Chunk(adapter.embed(tokens[:, None]), positions, visible=visible)
        logits = adapter.forward(chunk, Cache(layers=layers))
        positions.add_(1)
        slot.add_(1)
        return logits

    return step


class StepRecorder:
    """Gives every prefilled batch its way to step, and owns the recordings.

    `patience`: eager steps of a shape before it is recorded; 0 while warming up.
    """

    def __init__(self, adapter: Adapter, *, is_recording: bool) -> None:
        self._adapter = adapter
        self._is_recording = is_recording and adapter.is_recordable
        self._fixed_step = fixed_step(adapter)
        self._eager_steps: Counter[tuple[int, int]] = Counter()
        self._recordings: OrderedDict[tuple[int, int], Callable[..., Tensor] | None] = OrderedDict()
        self.patience = STEPS_BEFORE_RECORDING

    def step_from(self, state: Prefilled) -> DecodeStep:
        """How to go on from `state`, whose cache the steps fill."""
        eager = EagerStep(self._adapter, state)
        if not self._is_recording:
            return eager
        inputs = _fixed_inputs(state)
        shape = (len(state.logits), inputs[-1].shape[2])
        recording = self._recording(shape, state, inputs)
        if recording is not None:
            return lambda tokens: recording(tokens, *inputs)

        def counted(tokens: Tensor) -> Tensor:
            self._eager_steps[shape] += 1
            return eager(tokens)

        return counted

    def clear(self) -> None:
        """Recordings hold the model's weights."""
        self._recordings.clear()
        self._eager_steps.clear()

    def __len__(self) -> int:
        return sum(recording is not None for recording in self._recordings.values())

    def _recording(
        self, shape: tuple[int, int], state: Prefilled, inputs: list[Tensor]
    ) -> Callable[..., Tensor] | None:
        if shape in self._recordings:
            self._recordings.move_to_end(shape)
        elif self._eager_steps[shape] >= self.patience:
            self._recordings[shape] = self._record(state, inputs)
            if len(self._recordings) > _MOST_RECORDINGS:
                self._recordings.popitem(last=False)
        return self._recordings.get(shape)

    def _record(self, state: Prefilled, inputs: list[Tensor]) -> Callable[..., Tensor] | None:
        """None where the model's step cannot be recorded; it is not tried again for this shape."""
        tokens = inputs[1].new_zeros(len(state.logits))  # any
        with warnings.catch_warnings():
            # the tracer's: that it is deprecated, and where a size became a constant (shapes are fixed here)
            warnings.simplefilter("ignore")
            try:
                recorded = _trace(self._fixed_step, (tokens, *_copies(inputs)))
            except RuntimeError as exc:
                _log.warning("decode step not recorded", extra={"reason": str(exc)})
                return None
        if not self._is_equal(recorded, tokens, state, inputs):
            _log.warning("decode step not recorded", extra={"reason": "it computes something else"})
            return None
        return recorded

    def _is_equal(
        self, recorded: Callable[..., Tensor], tokens: Tensor, state: Prefilled, inputs: list[Tensor]
    ) -> bool:
        """Over two steps, of which the second would show a slot or a position that became a constant."""
        copies = _copies(inputs)
        eager = EagerStep(self._adapter, replace(state, cache=_copy(state.cache)))
        for _ in range(2):
            got, expected = recorded(tokens, *copies), eager(tokens)
            scale = _TOLERANCE.get(got.dtype, _HALF_TOLERANCE) * float(expected.abs().max())
            if not torch.allclose(got, expected, rtol=0, atol=scale):
                return False
        return True


def _trace(step: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    recorded: Callable[..., Tensor] = torch.jit.trace(step, inputs, check_trace=False)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return recorded


def _fixed_inputs(state: Prefilled) -> list[Tensor]:
    """What `fixed_step` takes after the tokens; keys and values are the cache's own buffers."""
    states = [buffer for layer in _layers(state.cache) for buffer in layer.buffers]
    rows, length, capacity = len(state.logits), state.cache.get_seq_length(), states[0].shape[2]
    visible = torch.zeros(rows, capacity, dtype=torch.bool, device=states[0].device)
    visible[:, :length] = True if state.visible is None else state.visible
    slot = torch.tensor([length], device=states[0].device)
    return [state.next_positions.expand(-1, rows, -1).clone(), slot, visible, *states]


def _copies(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [values.clone() for values in inputs]


def _copy(cache: Cache) -> Cache:
    layers: list[Any] = []
    for layer in _layers(cache):
        keys, values = _copies(layer.buffers)
        layers.append(RoomyLayer.over(keys, values, layer.length))
    return Cache(layers=layers)


def _layers(cache: Cache) -> list[RoomyLayer]:
    return cast("list[RoomyLayer]", cache.layers)
