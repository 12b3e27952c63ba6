"""What training's signs say, and scenes that only the dense net sees."""

from __future__ import annotations

import numpy as np
import pytest

from scenes.fonts import Split
from secondglance_server.engine.reader.alphabet import OTHER, folded
from training.reader.drawing.words import KINDS, text_of
from training.reader.records import make_record


def texts(split: Split) -> list[str]:
    rng = np.random.default_rng(0)
    return [text_of(rng, kind, split) for kind in KINDS for _ in range(400)]


@pytest.fixture(autouse=True)
def words(few_words: None, held_out_fonts: None) -> None:
    """Neither Debian's words nor the training fonts are on every machine."""


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


def test_a_scene_that_nobody_reads_has_its_signs_and_no_lines() -> None:
    record = make_record(3, "drawn", "train", None)
    assert all(not view.lines for view in record.views)
    assert record.views[0].signs
    assert record.views[1].target is not None
