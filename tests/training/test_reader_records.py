"""What training keeps of a scene: its views, read or not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scenes.fonts import font_files
from secondglance_server.engine.reader.vocabulary import NOTHING, Vocabulary
from training.reader.drawing import worlds
from training.reader.records import Record, Subject, any_box, make_record
from training.reader.stages import joint
from training.reader.stages.joint import QUESTIONS, JointData, joint_example
from training.reader.wordings import known_words

UNSEEN = itertools.repeat(np.zeros(0, np.float16))  # what the dense grid saw: not asked for here


@pytest.fixture(autouse=True)
def held_out(monkeypatch: pytest.MonkeyPatch, few_words: None, held_out_fonts: None) -> None:
    """Neither the photographs nor the training fonts are on every machine."""
    monkeypatch.setattr(worlds, "font_files", lambda split: font_files("test"))
    monkeypatch.setattr(worlds, "_background", lambda rng, split, aspect: worlds.PlainWall(rng))


@pytest.fixture
def signless(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    monkeypatch.setattr(worlds, "_placards", lambda *_: ())
    return [make_record(seed, "photo", "train", None) for seed in range(6)]


def test_a_scene_that_nobody_reads_has_its_signs_and_no_lines() -> None:
    record = make_record(3, "drawn", "train", None)
    assert all(not view.lines for view in record.views)
    assert record.views[0].signs
    assert record.views[1].target is not None


def test_a_scene_without_signs_has_a_crop_too(signless: list[Record]) -> None:
    """A crop meant that there is a sign: "how many signs" of none was 0, and 1 after the second look."""
    assert all(len(record.views) == 2 and not record.views[0].signs for record in signless)


def test_some_crops_show_any_place() -> None:
    records = [make_record(seed, "drawn", "train", None) for seed in range(30)]
    assert all(len(record.views) == 2 for record in records)
    assert 1 <= sum(record.views[1].target is None for record in records) <= 10


def test_any_place_lies_in_the_picture_and_is_as_large_as_a_region_of_the_server() -> None:
    for seed in range(60):
        subject = Subject(worlds.make_world(seed, "train"))
        left, top, right, bottom = any_box(np.random.default_rng(seed), subject)
        assert 0 <= left < right <= subject.size[0]
        assert 0 <= top < bottom <= subject.size[1]
        assert 0.2 <= max(right - left, bottom - top) / max(subject.size) <= 0.4


def test_a_pair_without_signs_is_asked_what_a_single_view_is(signless: list[Record]) -> None:
    vocabulary, data = Vocabulary.of(known_words()), JointData(signless, UNSEEN)
    firsts: dict[str, set[int]] = {}
    for index in range(len(signless)):
        rng = np.random.default_rng(index)
        example, kinds = joint_example(rng, data, vocabulary, index, is_pair=True)
        assert len(kinds) == len(example.questions) == QUESTIONS
        for kind, (_, target) in zip(kinds, example.questions, strict=True):
            firsts.setdefault(kind, set()).add(target.tokens[0])
    assert firsts["count"] == {vocabulary.ids["0"]}
    assert firsts["nothing"] == {vocabulary.ids[NOTHING[0]]}


@pytest.mark.parametrize("misled", [False, True])
def test_a_crop_shows_the_sign_that_is_asked_about_unless_it_misleads(
    monkeypatch: pytest.MonkeyPatch, misled: bool
) -> None:
    """A region with another sign was taken for the right one: what it said was a sure answer."""
    monkeypatch.setattr(joint, "MISLED", float(misled))
    vocabulary = Vocabulary.of(known_words())
    records = [make_record(seed, "drawn", "train", None) for seed in range(12)]
    pairs = [r for r in records if r.views[1].target is not None and len(r.views[0].signs) > 2]
    data = JointData(pairs, UNSEEN)
    shown = []
    for index, record in enumerate(pairs):
        example, _ = joint_example(np.random.default_rng(index), data, vocabulary, index, is_pair=True)
        seen = data.view(index, 0)[0]
        left, top, right, bottom = seen.content
        x0, y0, x1, y1 = seen.view.signs[record.views[1].target or 0].box
        x, y = left + (x0 + x1) / 2 * (right - left), top + (y0 + y1) / 2 * (bottom - top)
        boxes = [target.cells for _, target in example.questions if target.cells]
        shown.append(boxes[0][0] <= x <= boxes[0][2] and boxes[0][1] <= y <= boxes[0][3])
    assert len(shown) > 4
    assert not any(shown) if misled else sum(shown) > len(shown) / 2
