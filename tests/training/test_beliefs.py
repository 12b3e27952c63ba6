"""Soft targets: read where the sign asked about is, and mixed into the right answer tokens."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from scenes.signs import CHARACTERS
from training.beliefs import Beliefs, answer_codes, read_beliefs, reading_loss
from training.tower_stage import CODES, Heads
from training.views import SLOTS

WIDTH, CELLS = 8, 6


def test_codes_are_the_end_and_then_the_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    codes = answer_codes(tokenizer)
    assert codes[0] == tokenizer.eos_token_id
    assert tokenizer.decode(codes[1:]).replace(" ", "") == "".join(CHARACTERS)


def test_the_latest_view_that_shows_the_centre_is_asked() -> None:
    """Red lies in both views, blue in the first only, green nowhere, and the last question has no sign."""
    torch.manual_seed(0)
    heads = Heads(WIDTH, 128)
    cells = torch.randn(2, 2 * CELLS, WIDTH)
    color, anchor = torch.zeros(2, 2, 2 * CELLS)
    color[1, [2, 3, 8]], anchor[1, [3, 8]] = 1, 1
    color[1, 5], anchor[1, 5] = 3, 1
    rows, labels = torch.tensor([1, 1, 1, 0, 1]), torch.tensor([1, 3, 2, 1, -1])
    beliefs = read_beliefs(heads, cells, color, anchor, rows=rows, labels=labels, views=2)
    assert beliefs.known.tolist() == [True, True, False, False, False]
    for question, cell in ((0, 8), (1, 5)):
        wanted = heads.slots(cells[1, cell]).view(SLOTS, CODES).softmax(-1)
        torch.testing.assert_close(beliefs.posterior[question], wanted)


def test_only_the_tokens_of_known_questions_are_softened() -> None:
    """Two answers: of four characters (five tokens) with beliefs, of one token without."""
    torch.manual_seed(1)
    codes = torch.arange(CODES) + 2
    logits, truth = torch.randn(6, CODES + 9), torch.tensor([5, 9, 7, 8, 2, 4])
    first = torch.tensor([True, False, False, False, False, True])
    posterior = torch.rand(2, SLOTS, CODES).softmax(-1)
    beliefs = Beliefs(posterior, torch.tensor([True, False]))
    losses = reading_loss(logits, truth, first, beliefs, codes)
    hard = functional.cross_entropy(logits, truth, reduction="none")
    torch.testing.assert_close(losses[4:], hard[4:])
    for slot in range(SLOTS):
        target = torch.zeros(CODES + 9)
        target[codes] = posterior[0, slot]
        soft = functional.cross_entropy(logits[slot], target)
        torch.testing.assert_close(losses[slot], 0.2 * hard[slot] + 0.8 * soft)


def test_a_belief_in_the_truth_is_the_plain_loss() -> None:
    logits, truth = torch.randn(2, CODES), torch.tensor([4, 0])
    posterior = torch.zeros(1, SLOTS, CODES)
    posterior[0, 0, 4] = posterior[0, 1, 0] = 1
    beliefs = Beliefs(posterior, torch.tensor([True]))
    losses = reading_loss(logits, truth, torch.tensor([True, False]), beliefs, torch.arange(CODES))
    torch.testing.assert_close(losses, functional.cross_entropy(logits, truth, reduction="none"))
