"""Attention captured where it is computed: a wrapper around transformers' attention functions.

`register_capture` puts a twin of an attention function into transformers' registry. A text model that is set
to use the twin computes exactly what it would without it; while a `Recorder` is active, the chosen layers
also compute the softmax of the last query's row. It knows no model: everything that goes through
`AttentionInterface` works. SDPA has no soft-capped scores (Gemma 2); for those, `SOFTCAP` names a plain
function of ours. Not covered: attention sinks, which transformers refuses under SDPA.
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
SOFTCAP = "softcap"  # our name of the attention function for models with soft-capped scores


class Recorder:
    """Collects, over the layers named, the mean attention of the last query to the keys in `keys`."""

    def __init__(self, layers: tuple[int, ...], keys: slice | tuple[int, ...]) -> None:
        self._left = set(layers)
        self._keys = keys if isinstance(keys, slice) else list(keys)
        self._sum: Tensor | None = None
        self._count = 0

    def claim(self, layer: int | None) -> bool:
        """Return whether the layer is wanted; each is once, so that what follows a prompt is not read."""
        if layer not in self._left:
            return False
        self._left.remove(layer)
        return True

    def add(self, weights: Tensor) -> None:
        """`weights` [B, heads, keys]: one layer's row for the last query."""
        mean = weights[:, :, self._keys].mean(dim=1)
        self._sum = mean if self._sum is None else self._sum + mean.to(self._sum.device)
        self._count += 1

    def mean(self) -> Tensor:
        """[B, keys] float32, averaged over heads and layers."""
        assert self._sum is not None, "no layer of the forward pass was recorded"
        return self._sum / self._count


_active: ContextVar[Recorder | None] = ContextVar("attention_recorder", default=None)


@contextmanager
def recording(layers: tuple[int, ...], keys: slice | tuple[int, ...]) -> Iterator[Recorder]:
    """While it lasts, forward passes of this thread leave the last query's attention in the recorder."""
    recorder = Recorder(layers, keys)
    token = _active.set(recorder)
    try:
        yield recorder
    finally:
        _active.reset(token)


def register_capture(base: str) -> str:
    """Register the capturing twin of the attention function `base` with transformers and return its name.

    `base` is a name of transformers ("sdpa", ...) or `SOFTCAP`.
    """
    attend = _attend_softcapped if base == SOFTCAP else ALL_ATTENTION_FUNCTIONS[base]

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
        if recorder is not None and recorder.claim(getattr(module, "layer_idx", None)):
            recorder.add(last_row(query, key, attention_mask, scaling, softcap=kwargs.get("softcap")))
        result: tuple[Tensor, Tensor | None] = attend(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return result

    name = _PREFIX + base
    ALL_ATTENTION_FUNCTIONS.register(name, attend_and_record)
    mask_of = "sdpa" if base == SOFTCAP else base
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[mask_of])
    return name


def takes_rows(implementation: str) -> bool:
    """Return whether the kernel of that name takes a mask [B, 1, 1, keys] of booleans."""
    return implementation.removeprefix(_PREFIX) in ("sdpa", SOFTCAP)


def _attend_softcapped(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Return softmax(softcap * tanh(Q K^T * scaling / softcap)) V, [B, queries, heads, width]."""
    scores = _scores(query, key, scaling, softcap)
    queries, keys = scores.shape[-2:]
    if attention_mask is None and queries > 1:  # what SDPA's `is_causal` says
        attention_mask = scores.new_ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    weights = _masked(scores, attention_mask).softmax(dim=-1).to(value.dtype)
    grouped = weights.view(query.shape[0], key.shape[1], -1, keys)  # [B, key heads, group * queries, keys]
    return torch.matmul(grouped, value).view(query.shape).transpose(1, 2).contiguous(), None


def last_row(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None, *, softcap: float | None = None
) -> Tensor:
    """Return softmax(q_last K^T * scaling): [B, heads, keys] float32.

    `query` [B, heads, queries, width], `key` [B, key heads, keys, width]; `mask` as SDPA takes it (bool or
    additive, four dimensions) or as flash attention does ([B, keys], 0 where padded). Without a mask the last
    query sees every key. `softcap`: the bound of the scores before the softmax, None for none.
    """
    keys = key.shape[2]
    scores = _scores(query[:, :, -1:], key, scaling, softcap)
    if mask is not None:
        mask = mask[:, :, -1:, :keys] if mask.dim() == 4 else mask[:, None, None, :keys].bool()
    return _masked(scores, mask)[:, :, 0].softmax(dim=-1)


def _scores(query: Tensor, key: Tensor, scaling: float | None, softcap: float | None) -> Tensor:
    """[B, heads, queries, keys] float32; heads of a group share a key head."""
    batch, heads, queries, width = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    grouped = query.reshape(batch, key_heads, heads // key_heads * queries, width)
    scores = torch.matmul(grouped, key.transpose(2, 3)).view(batch, heads, queries, keys).float()
    scores = scores * (scaling if scaling is not None else width**-0.5)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
