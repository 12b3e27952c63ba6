"""What the tower itself believes about the sign that is asked about: soft targets for text and colour.

Half of all texts cannot be read in the global view, and a true answer that nobody can see is noise in the
gradient. The heads' posterior at a sign's centre says the same without it, character by character, and how
unsure an honest reader is: with it the decoder came from 90 % of the legible signs of held-out photos near to
the heads' own 98 %. The colour of a sign whose text is given follows from the same posteriors by Bayes' rule:
as likely as its sign's cells say that text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from scenes.signs import CHARACTERS, COLORS
from training.pictures.views import SLOTS
from training.tower_stage import CODES, Heads

BELIEFS_SHARE = 0.8
END = 0  # the code of an empty slot


@dataclass(frozen=True, slots=True, eq=False)
class Beliefs:
    """For each question of a batch: `posterior` [Q, SLOTS, codes], and whether there is one, `known` [Q]."""

    posterior: Tensor
    known: Tensor


def answer_codes(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """The answer token of each code: the end, then the characters (the heads' codes), then the colours."""
    ids = [tokenizer(c, add_special_tokens=False).input_ids for c in (*CHARACTERS, *COLORS)]
    assert all(len(one) == 1 for one in ids)
    return torch.tensor([tokenizer.eos_token_id, *(one[0] for one in ids)])


def latest_centres(color: Tensor, anchor: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Of `color` and `anchor` [Q, views * N]: the cell [Q, COLORS] of each colour's sign's centre.

    In the latest view that shows it; with it whether any does [Q, COLORS].
    """
    labels = torch.arange(1, len(COLORS) + 1, device=color.device).view(1, -1, 1)
    centre = (color.long().unsqueeze(1) == labels) & (anchor > 0).unsqueeze(1)
    later = torch.arange(color.shape[1], device=color.device) // (color.shape[1] // views) + 1
    score = centre * later
    return score.argmax(-1), centre.any(-1)


@torch.no_grad()
def beliefs_of(
    heads: Heads,
    cells: Tensor,
    color: Tensor,
    anchor: Tensor,
    slots: Tensor,
    *,
    rows: Tensor,
    labels: Tensor,
    about_color: Tensor,
    views: int,
) -> Beliefs:
    """Of questions about the signs of the colours `labels` [Q] (-1: none) in the pictures `rows` [Q].

    `cells` [B, views * N, C] with the true `color` and `anchor` [B, views * N] and `slots`
    [B, views * N, SLOTS].
    `about_color` [Q]: the text is given and the colour is asked for, not the other way round.
    """
    centre, shown = latest_centres(color[rows], anchor[rows], views)
    questions, sign = torch.arange(len(rows), device=rows.device), labels.clamp(min=1) - 1
    logits = heads.slots(cells[rows.unsqueeze(1), centre]).unflatten(-1, (SLOTS, CODES))
    reading = logits.float().log_softmax(-1)  # [Q, COLORS, SLOTS, CODES]
    posterior = functional.pad(reading[questions, sign].exp(), (0, len(COLORS)))
    text = slots[rows, centre[questions, sign]].long()  # [Q, SLOTS]
    likely = reading.gather(3, text[:, None, :, None].expand(-1, len(COLORS), -1, 1)).sum((2, 3))
    of_color = torch.zeros_like(posterior)
    of_color[:, 0, CODES:] = likely.masked_fill(~shown, -torch.inf).softmax(-1)
    of_color[:, 1:, END] = 1
    known = (labels > 0) & shown[questions, sign]
    return Beliefs(torch.where(about_color[:, None, None], of_color, posterior), known)


def answer_loss(logits: Tensor, truth: Tensor, first: Tensor, beliefs: Beliefs, codes: Tensor) -> Tensor:
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
