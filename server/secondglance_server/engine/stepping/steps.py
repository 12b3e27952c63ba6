"""One token more for rows that are decoded together: eagerly, or by replaying a recording of the step.

A step ends with the next tokens and their statistics, which are recorded with the rest.

A small model's step is mostly the interpreter's time. A recording (TorchScript, which needs no compiler on
the machine) runs the same operations without it. It holds for one shape, a number of rows over buffers of one
capacity: keys and values are written at each row's slot, a mask hides what lies behind it. Recording costs
what it saves in some hundred steps, so a shape is recorded once it has run that often. A recording that does
not compute what the eager step computes is not used. torch calls the tracer deprecated; its successors want a
compiler (`docs/log.md`).
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from secondglance_server.engine.adapters.protocol import Adapter, Chunk
from secondglance_server.engine.kv_cache import RoomyLayer
from secondglance_server.engine.stepping.rows import Rows, SlotLayer
from secondglance_server.engine.stepping.uncertainty import Measured, uncertainty

FixedStep: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor]]

_log = logging.getLogger("secondglance_server.engine")

STEPS_BEFORE_RECORDING = 128
_MOST_RECORDINGS = 16  # a few megabytes each: batches of 1 to 8 at two capacities
_TOLERANCE = {torch.float32: 1e-4}  # of the largest logit
_HALF_TOLERANCE = 5e-2
_CHECKED_STEPS = 2  # the second would show a slot or a position that became a constant


def eager_step(adapter: Adapter, rows: Rows, tokens: Tensor) -> Tensor:
    """Feed `tokens` [B] through the model's own forward pass; return the next logits [B, vocabulary]."""
    layers: list[Any]
    pairs = zip(rows.states[::2], rows.states[1::2], strict=True)
    count, shown = len(rows), max(rows.lengths) + 1
    if rows.visible is None:
        visible = None
        layers = [RoomyLayer.over(keys[:count], values[:count], shown - 1) for keys, values in pairs]
    else:
        rows.visible[torch.arange(count, device=tokens.device), rows.slots] = True
        visible = rows.visible[:, :shown]
        layers = [SlotLayer(keys[:count], values[:count], rows.slots, shown) for keys, values in pairs]
    chunk = Chunk(adapter.embed(tokens[:, None]), rows.positions, visible=visible)
    logits = adapter.forward(chunk, Cache(layers=layers))
    rows.positions += 1
    rows.slots += 1
    rows.advance()
    return logits


def fixed_step(adapter: Adapter) -> FixedStep:
    """Return a step over (tokens [B], positions [axes, B, 1], slots [B], visible [B, capacity], keys and
    values of each layer): it moves positions, slots and mask on by one token, and returns the next logits
    [B, vocabulary], tokens [B] and statistics [B, 3]."""

    def step(
        tokens: Tensor, positions: Tensor, slots: Tensor, visible: Tensor, *states: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        visible.scatter_(1, slots[:, None], 1)  # the tracer knows no scatter of a boolean
        layers: list[Any] = [
            SlotLayer(keys, values, slots, keys.shape[2])
            for keys, values in zip(states[::2], states[1::2], strict=True)
        ]
        chunk = Chunk(adapter.embed(tokens[:, None]), positions, visible=visible)
        logits = adapter.forward(chunk, Cache(layers=layers))
        positions.add_(1)
        slots.add_(1)
        return logits, *uncertainty(logits)

    return step


class StepRecorder:
    """Takes steps, each in the best way that there is for its shape, and owns the recordings.

    `patience`: eager steps of a shape before it is recorded; 0 while warming up.
    """

    def __init__(self, adapter: Adapter, *, is_recording: bool) -> None:
        self._adapter = adapter
        self._is_recording = is_recording and adapter.is_recordable
        self._fixed_step = fixed_step(adapter)
        self._eager_steps: Counter[tuple[int, int]] = Counter()
        self._recordings: OrderedDict[tuple[int, int], FixedStep | None] = OrderedDict()
        self.patience = STEPS_BEFORE_RECORDING

    def step(self, rows: Rows, tokens: Tensor) -> Measured:
        """Feed `tokens` [B] to the rows; return the next ones and how sure each is."""
        if not self._is_recording:
            return uncertainty(eager_step(self._adapter, rows, tokens))
        shape = (len(rows), rows.capacity)
        recording = self._recording(shape, rows)
        if recording is None:
            self._eager_steps[shape] += 1
            return uncertainty(eager_step(self._adapter, rows, tokens))
        _logits, next_tokens, statistics = recording(tokens, *rows.inputs)
        rows.advance()
        return next_tokens, statistics

    def clear(self) -> None:
        """Recordings hold the model's weights."""
        self._recordings.clear()
        self._eager_steps.clear()

    def __len__(self) -> int:
        return sum(recording is not None for recording in self._recordings.values())

    def _recording(self, shape: tuple[int, int], rows: Rows) -> FixedStep | None:
        if shape in self._recordings:
            self._recordings.move_to_end(shape)
        elif self._eager_steps[shape] >= self.patience and rows.has_room_for(_CHECKED_STEPS):
            self._recordings[shape] = self._record(rows)
            if len(self._recordings) > _MOST_RECORDINGS:
                self._recordings.popitem(last=False)
        return self._recordings.get(shape)

    def _record(self, rows: Rows) -> FixedStep | None:
        """None where the model's step cannot be recorded; it is not tried again for this shape."""
        tokens = rows.slots.new_zeros(len(rows))  # any
        with warnings.catch_warnings():
            # the tracer's: that it is deprecated, and where a size became a constant (shapes are fixed here)
            warnings.simplefilter("ignore")
            try:
                recorded = _trace(self._fixed_step, (tokens, *rows.copy().inputs))
            except RuntimeError as exc:
                _log.warning("decode step not recorded", extra={"reason": str(exc)})
                return None
        if not self._is_equal(recorded, tokens, rows):
            _log.warning("decode step not recorded", extra={"reason": "it computes something else"})
            return None
        return recorded

    def _is_equal(self, recorded: FixedStep, tokens: Tensor, rows: Rows) -> bool:
        """Whether the recording computes what the eager step does, on copies."""
        inputs, eager_rows = rows.copy().inputs, rows.copy()
        for _ in range(_CHECKED_STEPS):
            (got, *_), expected = recorded(tokens, *inputs), eager_step(self._adapter, eager_rows, tokens)
            scale = _TOLERANCE.get(got.dtype, _HALF_TOLERANCE) * float(expected.abs().max())
            if not torch.allclose(got, expected, rtol=0, atol=scale):
                return False
        return True


def _trace(step: FixedStep, inputs: tuple[Tensor, ...]) -> FixedStep:
    recorded: FixedStep = torch.jit.trace(step, inputs, check_trace=False)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return recorded
