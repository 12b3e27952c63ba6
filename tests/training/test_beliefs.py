"""Soft targets: read where the sign asked about is, and mixed into the right answer tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from scenes.signs import CHARACTERS, COLORS
from training.beliefs import Beliefs, answer_codes, answer_loss, beliefs_of
from training.pictures.views import SLOTS
from training.tower_stage import CODES, Heads

WIDTH, CELLS = 8, 6


def test_codes_are_the_end_then_the_characters_then_the_colors(tokenizer: PreTrainedTokenizerFast) -> None:
    codes = answer_codes(tokenizer)
    assert codes[0] == tokenizer.eos_token_id
    assert tokenizer.decode(codes[1:CODES]).replace(" ", "") == "".join(CHARACTERS)
    assert [tokenizer.decode([code]).strip() for code in codes[CODES:]] == list(COLORS)


@pytest.fixture
def seen() -> dict[str, Any]:
    """Two pictures of two views. In the second, red (label 1) lies in both views, blue (3) in the first only.

    The cells' texts: red `1`, blue `02`, as codes 2 and (1, 3).
    """
    torch.manual_seed(0)
    color, anchor = torch.zeros(2, 2, 2 * CELLS)
    slots = torch.zeros(2, 2 * CELLS, SLOTS, dtype=torch.uint8)
    color[1, [2, 3, 8]], anchor[1, [3, 8]] = 1, 1
    color[1, 5], anchor[1, 5] = 3, 1
    slots[1, [2, 3, 8], 0] = 2
    slots[1, 5, :2] = torch.tensor([1, 3], dtype=torch.uint8)
    return {
        "heads": Heads(WIDTH, 128),
        "cells": torch.randn(2, 2 * CELLS, WIDTH),
        "color": color,
        "anchor": anchor,
        "slots": slots,
        "views": 2,
    }


def slots_at(seen: dict[str, Any], cell: int) -> Tensor:
    logits: Tensor = seen["heads"].slots(seen["cells"][1, cell])
    return logits.view(SLOTS, CODES)


def test_a_text_is_read_in_the_latest_view_that_shows_its_sign(seen: dict[str, Any]) -> None:
    """Green lies nowhere, the fourth question is about the first picture and the last about no sign."""
    rows, labels = torch.tensor([1, 1, 1, 0, 1]), torch.tensor([1, 3, 2, 1, -1])
    beliefs = beliefs_of(**seen, rows=rows, labels=labels, about_color=torch.zeros(5, dtype=torch.bool))
    assert beliefs.known.tolist() == [True, True, False, False, False]
    for question, cell in ((0, 8), (1, 5)):
        wanted = slots_at(seen, cell).softmax(-1)
        torch.testing.assert_close(beliefs.posterior[question, :, :CODES], wanted)
        assert not beliefs.posterior[question, :, CODES:].any()


def test_a_color_is_as_likely_as_its_sign_says_the_text(seen: dict[str, Any]) -> None:
    """Asked for the colour of `1` (the red sign) and of `02` (the blue one)."""
    rows, labels = torch.tensor([1, 1, 1]), torch.tensor([1, 3, 2])
    beliefs = beliefs_of(**seen, rows=rows, labels=labels, about_color=torch.ones(3, dtype=torch.bool))
    assert beliefs.known.tolist() == [True, True, False]
    for question, text in enumerate(([2, 0, 0, 0], [1, 3, 0, 0])):
        red, blue = (slots_at(seen, cell).softmax(-1)[range(SLOTS), text].prod().item() for cell in (8, 5))
        wanted = torch.zeros(len(COLORS))
        wanted[0], wanted[2] = red / (red + blue), blue / (red + blue)
        torch.testing.assert_close(beliefs.posterior[question, 0, CODES:], wanted)
        assert not beliefs.posterior[question, 0, :CODES].any()
        assert (beliefs.posterior[question, 1:, 0] == 1).all()


def test_only_the_tokens_of_known_questions_are_softened() -> None:
    """Two answers: of four characters (five tokens) with beliefs, of one token without."""
    torch.manual_seed(1)
    codes = torch.arange(CODES) + 2
    logits, truth = torch.randn(6, CODES + 9), torch.tensor([5, 9, 7, 8, 2, 4])
    first = torch.tensor([True, False, False, False, False, True])
    posterior = torch.rand(2, SLOTS, CODES).softmax(-1)
    beliefs = Beliefs(posterior, torch.tensor([True, False]))
    losses = answer_loss(logits, truth, first, beliefs, codes)
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
    losses = answer_loss(logits, truth, torch.tensor([True, False]), beliefs, torch.arange(CODES))
    torch.testing.assert_close(losses, functional.cross_entropy(logits, truth, reduction="none"))
