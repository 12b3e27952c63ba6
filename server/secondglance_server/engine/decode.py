"""Greedy decoding with the uncertainty of every token.

Statistics stay on the device and come over once, at the end. Whether all rows are done is looked at one step
late on an accelerator, so that the host never waits for the step it has just queued. Knows logits only, no
model and no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One row: `ids` without the end-of-sequence token; `stats` float32 [tokens, 3]: min-entropy, Shannon,
    margin."""

    ids: list[int]
    stats: NDArray[np.float32]


def uncertainty(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The most likely tokens [B] and (min-entropy nats, Shannon entropy nats, margin) [B, 3] of logits [B,
    vocabulary]."""
    log_p = logits.float().log_softmax(dim=-1)
    best, ids = log_p.topk(2, dim=-1)
    p = best.exp()
    # 0 * log 0 is 0: a suppressed token's -inf must not become NaN
    shannon = torch.special.entr(log_p.exp()).sum(dim=-1)
    return ids[:, 0], torch.stack([-best[:, 0], shannon, 1 - (p[:, 0] - p[:, 1])], dim=-1)


def decode_greedily(
    step: Callable[[Tensor], Tensor], logits: Tensor, limits: Sequence[int], end_ids: frozenset[int]
) -> list[Decoded]:
    """Continues each row until its limit or an end token.

    `logits` [B, vocabulary] of the prompts' last tokens; `step` feeds tokens [B] and returns the next logits.
    """
    on_host = logits.device.type == "cpu"
    lag = 0 if on_host else 1
    ends = torch.tensor(sorted(end_ids), device=logits.device)
    allowed = torch.tensor(limits, device=logits.device)
    done = allowed <= 0
    tokens: list[Tensor] = []
    stats: list[Tensor] = []
    finished: list[Tensor] = []
    for index in range(max(limits)):
        token, measured = uncertainty(logits)
        tokens.append(token)
        stats.append(measured)
        done = done | torch.isin(token, ends) | (allowed <= index + 1)
        finished.append(done.all())
        if index + 1 == max(limits) or (index >= lag and bool(finished[index - lag])):
            break
        logits = step(token)
    if not tokens:
        return [Decoded([], np.zeros((0, 3), np.float32)) for _ in limits]
    ids = torch.stack(tokens, dim=1).tolist()
    values = torch.stack(stats, dim=1).cpu().numpy()
    return [_cut(row, values[i], limits[i], end_ids) for i, row in enumerate(ids)]


def _cut(ids: list[int], stats: NDArray[np.float32], limit: int, end_ids: frozenset[int]) -> Decoded:
    length = next((i for i, token in enumerate(ids[:limit]) if token in end_ids), min(limit, len(ids)))
    return Decoded(ids[:length], stats[:length])
