"""Attention captured where it is computed: a wrapper around transformers' attention functions.

`register_capture` puts a twin of an attention function into transformers' registry. A text model that is set
to use the twin computes exactly what it would without it; while a `Recorder` is active, the chosen layers
also compute the softmax of the last query's row. It knows no model: everything that goes through
`AttentionInterface` works. Not covered: soft-capped scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_PREFIX = "secondglance_"


class Recorder:
    """Collects, over the layers named, the mean attention of the last query to the keys in `keys`."""

    def __init__(self, layers: tuple[int, ...], keys: slice) -> None:
        self._layers = frozenset(layers)
        self._keys = keys
        self._sum: Tensor | None = None
        self._count = 0

    def wants(self, layer: int) -> bool:
        return layer in self._layers

    def add(self, weights: Tensor) -> None:
        """`weights` [B, heads, keys]: one layer's row for the last query."""
        mean = weights[:, :, self._keys].mean(dim=1)
        self._sum = mean if self._sum is None else self._sum + mean
        self._count += 1

    def mean(self) -> Tensor:
        """[B, keys] float32, averaged over heads and layers."""
        assert self._sum is not None, "no layer of the forward pass was recorded"
        return self._sum / self._count


_active: ContextVar[Recorder | None] = ContextVar("attention_recorder", default=None)


@contextmanager
def recording(layers: tuple[int, ...], keys: slice) -> Iterator[Recorder]:
    """While it lasts, forward passes of this thread leave the last query's attention in the recorder."""
    recorder = Recorder(layers, keys)
    token = _active.set(recorder)
    try:
        yield recorder
    finally:
        _active.reset(token)


def register_capture(base: str) -> str:
    """Makes the capturing twin of the attention function `base` ("sdpa", ...) known to transformers and
    returns its name."""
    attend = ALL_ATTENTION_FUNCTIONS[base]

    def attend_and_record(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        recorder = _active.get()
        if recorder is not None and recorder.wants(module.layer_idx):  # type: ignore[arg-type]  # set by every decoder
            recorder.add(last_row(query, key, attention_mask, scaling))
        result: tuple[Tensor, Tensor | None] = attend(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return result

    name = _PREFIX + base
    ALL_ATTENTION_FUNCTIONS.register(name, attend_and_record)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def last_row(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """softmax(q_last K^T * scaling): [B, heads, keys] float32.

    `query` [B, heads, queries, width], `key` [B, key heads, keys, width]; `mask` as SDPA takes it (bool or
    additive, four dimensions) or as flash attention does ([B, keys], 0 where padded). Without a mask the last
    query sees every key.
    """
    batch, heads, _, width = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    rows = query[:, :, -1].view(batch, key_heads, heads // key_heads, width)
    scores = torch.matmul(rows, key.transpose(2, 3)).view(batch, heads, keys).float()
    scores = scores * (scaling if scaling is not None else width**-0.5)
    if mask is not None:
        row = mask[:, :, -1, :keys] if mask.dim() == 4 else mask[:, None, :keys].bool()
        scores = scores.masked_fill(~row, float("-inf")) if row.dtype == torch.bool else scores + row
    return scores.softmax(dim=-1)
