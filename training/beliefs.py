"""What the tower itself believes is written on the sign that is asked about: soft targets for reading.

The tower's heads read 98 % of the legible signs of held-out photos where the decoder, trained on true texts
only, read 90 %. Half of all texts cannot be read in the global view, and a true answer that nobody can see
is noise in the gradient; the heads' posterior at the sign's centre says the same without it, character by
character, and how unsure an honest reader is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from scenes.signs import CHARACTERS
from training.tower_stage import Heads
from training.views import SLOTS

BELIEFS_SHARE = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Beliefs:
    """For each question of a batch: `posterior` [Q, SLOTS, codes], and whether there is one, `known` [Q]."""

    posterior: Tensor
    known: Tensor


def answer_codes(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """The answer token of each of the heads' codes: the end for an empty slot, then the characters."""
    ids = [tokenizer(c, add_special_tokens=False).input_ids for c in CHARACTERS]
    assert all(len(one) == 1 for one in ids)
    return torch.tensor([tokenizer.eos_token_id, *(one[0] for one in ids)])


@torch.no_grad()
def read_beliefs(
    heads: Heads, cells: Tensor, color: Tensor, anchor: Tensor, *, rows: Tensor, labels: Tensor, views: int
) -> Beliefs:
    """Of questions about signs of the colours `labels` [Q] (-1: none) in the pictures `rows` [Q].

    `cells` [B, views * N, C] with `color` and `anchor` [B, views * N]. The latest view that shows the sign's
    centre is asked.
    """
    centre = (color[rows].long() == labels.unsqueeze(1)) & (anchor[rows] > 0)  # [Q, views * N]
    per_view = centre.shape[1] // views
    later = torch.arange(centre.shape[1], device=centre.device) // per_view + 1
    score = centre * later
    known = score.any(1) & (labels > 0)
    chosen = cells[rows, score.argmax(1)]  # [Q, C]
    slots = heads.slots(chosen).view(len(rows), SLOTS, -1).softmax(-1)
    return Beliefs(slots, known)


def reading_loss(logits: Tensor, truth: Tensor, first: Tensor, beliefs: Beliefs, codes: Tensor) -> Tensor:
    """Cross-entropy of every answer token [M], BELIEFS_SHARE of it to the beliefs where there are some.

    `first` [M]: which tokens begin an answer. A token's slot is its place in the answer; the end after four
    characters is certain.
    """
    losses = functional.cross_entropy(logits, truth, reduction="none")
    question = first.long().cumsum(0) - 1
    starts = first.nonzero()[:, 0]
    slot = torch.arange(len(truth), device=truth.device) - starts[question]
    soft = beliefs.known[question] & (slot < SLOTS)
    posterior = beliefs.posterior[question[soft], slot[soft]]  # [S, codes]
    spread = -(posterior * logits[soft].log_softmax(-1)[:, codes]).sum(-1)
    mixed = (1 - BELIEFS_SHARE) * losses[soft] + BELIEFS_SHARE * spread
    return losses.index_put((soft.nonzero()[:, 0],), mixed)
