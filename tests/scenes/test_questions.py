"""Questions: the four canonical wordings, and answers that follow from the signs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from scenes.generator import Scene, make_scene
from scenes.questions import WORDINGS, Kind, Question, make_questions
from scenes.signs import COLORS

CANONICAL: dict[Kind, str] = {
    "read": "What is written on the red sign?",
    "count": "How many signs are there?",
    "presence": "Is there a red sign?",
    "color": "What color is the sign that says A7?",
}
PATTERNS: dict[Kind, str] = {
    "read": r"What is written on the (\w+) sign\?",
    "count": r"How many signs are there\?",
    "presence": r"Is there an? (\w+) sign\?",
    "color": r"What color is the sign that says ([A-Z0-9]{1,4})\?",
}


@pytest.mark.parametrize("kind", CANONICAL)
def test_the_canonical_wording_is_exactly(kind: Kind) -> None:
    assert WORDINGS[kind][0].format(color="red", text="A7", a="a") == CANONICAL[kind]


def answer_by_hand(scene: Scene, question: Question) -> str:
    """The answer that follows from the wording and the signs alone."""
    found = re.fullmatch(PATTERNS[question.kind], question.text)
    assert found is not None, question.text
    by_color = {sign.color: sign.text for sign in scene.signs}
    by_text = {sign.text: sign.color for sign in scene.signs}
    match question.kind:
        case "read":
            return by_color[found[1]]
        case "color":
            return by_text[found[1]]
        case "presence":
            return "yes" if found[1] in by_color else "no"
        case "count":
            return str(len(scene.signs))


def test_answers_agree_with_the_signs() -> None:
    for seed in range(60):
        scene = make_scene(seed, split="test", canonical=True)
        assert [question.answer for question in scene.questions] == [
            answer_by_hand(scene, question) for question in scene.questions
        ]


def test_a_question_about_a_sign_names_that_sign(scenes: list[Scene]) -> None:
    for scene in scenes:
        for question in scene.questions:
            if question.sign is None:
                assert question.kind in ("count", "presence")
                continue
            sign = scene.signs[question.sign]
            named, asked_for = (sign.color, sign.text) if question.kind == "read" else (sign.text, sign.color)
            assert named in re.findall(r"\w+", question.text)
            assert question.answer == asked_for


def test_every_scene_is_asked_everything_once(scenes: list[Scene]) -> None:
    for scene in scenes:
        kinds = [question.kind for question in scene.questions]
        signs = len(scene.signs)
        assert (kinds.count("read"), kinds.count("color")) == (signs, signs)
        assert (kinds.count("count"), kinds.count("presence")) == (1, 2)
        assert {q.answer for q in scene.questions if q.kind == "presence"} == {"yes", "no"}


def test_all_wordings_are_used_and_no_placeholder_is_left(scenes: list[Scene]) -> None:
    texts = [question.text for scene in scenes for question in scene.questions]
    assert not any(set("{}") & set(text) for text in texts)
    starts = {wording.split("{")[0] for wordings in WORDINGS.values() for wording in wordings}
    assert all(any(text.startswith(start) for text in texts) for start in starts)


def test_orange_takes_an() -> None:
    scene = make_scene(3, split="test")
    asked = [
        question.text
        for seed in range(80)
        for question in make_questions(np.random.default_rng(seed), scene.signs)
        if question.kind == "presence"
    ]
    assert any(" an orange sign" in text for text in asked)
    assert not any(" a orange" in text for text in asked)
    assert not any(f" an {color}" in text for text in asked for color in COLORS if color != "orange")
