"""What training's signs say."""

from __future__ import annotations

import numpy as np
import pytest

from scenes.fonts import Split
from secondglance_server.engine.reader.alphabet import OTHER, folded
from training.reader.drawing.words import KINDS, text_of


def texts(split: Split) -> list[str]:
    rng = np.random.default_rng(0)
    return [text_of(rng, kind, split) for kind in KINDS for _ in range(400)]


@pytest.fixture(autouse=True)
def words(few_words: None) -> None:
    """Debian's words are not on every machine."""


@pytest.mark.parametrize("needed", ["www.", "@", "'s", "'S", " & ", "!", " the "])
def test_training_reads_what_real_signs_have(needed: str) -> None:
    """A web address came out as sixty w's: no training sign had one."""
    assert any(needed in text for text in texts("train"))


@pytest.mark.parametrize("needed", ["www.", "@", "'s", " & ", "!"])
def test_held_out_texts_stay_those_of_earlier_measurements(needed: str) -> None:
    assert not any(needed in text for text in texts("test"))


def test_some_training_codes_repeat_a_character() -> None:
    assert any(character * 4 in text for text in texts("train") for character in set(text))


def test_every_text_can_be_written_and_read_in_one_line() -> None:
    for text in (*texts("train"), *texts("test")):
        assert text == text.strip()
        assert 1 <= len(text) <= 40
        assert OTHER not in folded(text)
