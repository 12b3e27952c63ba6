"""Training on a handful of held-out pictures: the training fonts are not on every machine."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from scenes import generator
from scenes.fonts import Split, font_files
from training.pictures import views
from training.reader.drawing import words
from training.tokenizer import build_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def held_out_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever split is asked for, its signs are painted with the fonts that pip installed."""

    def held_out(_split: Split) -> object:
        return font_files("test")

    for module in (generator, views):
        monkeypatch.setattr(module, "font_files", held_out)


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few words in place of Debian's word lists, which are not on every machine."""
    monkeypatch.setattr(words, "word_list", lambda split: ("alpha", "bravo", "charlie", "delta", "echo"))


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage runs on the CPU, whatever the machine has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
