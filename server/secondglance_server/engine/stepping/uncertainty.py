"""The most likely next tokens, and how sure the model is of them: for every engine that has the logits."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Measured: TypeAlias = tuple[Tensor, Tensor]  # tokens [B], statistics [B, 3]


def uncertainty(logits: Tensor) -> Measured:
    """The most likely tokens [B] and (min-entropy nats, Shannon entropy nats, margin) [B, 3] of logits [B,
    vocabulary]."""
    log_p = logits.float().log_softmax(dim=-1)
    best, ids = log_p.topk(2, dim=-1)
    p = best.exp()
    # 0 * log 0 is 0: a suppressed token's -inf must not become NaN
    shannon = torch.special.entr(log_p.exp()).sum(dim=-1)
    return ids[:, 0], torch.stack([-best[:, 0], shannon, 1 - (p[:, 0] - p[:, 1])], dim=-1)
