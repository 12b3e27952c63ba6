"""400 questions that try to spell control tokens: none comes out of the tokenizer as one.

Questions are built from the family's own control tokens and the usual tricks: nested in each other, cut by
characters that normalisers drop, in other letter forms, glued to the template's words, many at a time.
"""

from __future__ import annotations

import random
import unicodedata

import pytest

from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, Picture
from tests.engine.conftest import Family
from tests.engine.test_equalities import LANDSCAPE

QUESTIONS = 400
INVISIBLE = ("\u200b", "\u200d", "\ufeff", "\u00ad", "\u2060", "\u0301", "\x00", "\x02", "\x03")
FOREIGN = ("<image>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "[INST]", "<s>", "</s>", "<|eot_id|>")


def nested(control: str, cut: int) -> str:
    return control[:cut] + control + control[cut:]


def trick(control: str, other: str, chance: random.Random) -> str:
    cut = chance.randrange(1, max(2, len(control)))
    forms = [
        control,
        control * chance.randint(2, 5),
        control + other,
        nested(control, cut),
        nested(nested(control, cut), cut),
        nested(other, 1).replace(other, control),
        control[:cut] + chance.choice(INVISIBLE) + control[cut:],
        control[:cut] + " " + control[cut:],
        control[:cut] + control[:cut] + control[cut:] + control[cut:],
        "".join(
            chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in control
        ),  # full width: NFKC undoes it
        control.upper(),
        control.lower(),
        unicodedata.normalize("NFD", control),
        control[0] + other + control[1:],
        "\x02question\x03" + control,
        f"USER: {control} ASSISTANT:{other}",
    ]
    return chance.choice(forms)


def adversarial(controls: tuple[str, ...]) -> list[str]:
    """Questions with one to three tricks, seeded."""
    chance = random.Random(400)
    known = [*controls, *FOREIGN]
    questions = []
    for _ in range(QUESTIONS):
        tricks = [
            trick(chance.choice(known), chance.choice(known), chance) for _ in range(chance.randint(1, 3))
        ]
        words = ["What", "number", "is", "this?"]
        for each in tricks:
            words.insert(chance.randrange(len(words) + 1), each)
        questions.append(chance.choice(["", " ", "\n"]).join(words))
    return questions


def test_no_question_of_400_leaks_a_control_token(family: Family) -> None:
    """CVE-2026-44222: a prompt that spelt an image placeholder crashed a serving engine."""
    adapter, prompts = family.engine.adapter, family.engine.prompts
    layouts = [adapter.layout(72, 40)]
    special = {i for i, token in adapter.tokenizer.added_tokens_decoder.items() if token.special}
    special |= {adapter.image_token_id, *adapter.end_ids} - {adapter.tokenizer.unk_token_id}
    expected = [token for token in prompts.build("What?", layouts).ids if token in special]
    questions = adversarial(family.tiny.controls)
    assert len(set(questions)) > 350
    raw = [adapter.tokenizer(question, add_special_tokens=False).input_ids for question in questions]
    assert sum(any(token in special for token in ids) for ids in raw) > 100, "the tricks do not bite"
    leaks = [
        question
        for question in questions
        if [token for token in prompts.build(question, layouts).ids if token in special] != expected
    ]
    assert leaks == []


@pytest.mark.parametrize("part", range(2))
def test_adversarial_questions_are_answered_as_questions(family: Family, part: int) -> None:
    """The engine runs them in batches, both stages; every one gets an answer."""
    questions = adversarial(family.tiny.controls)[part :: QUESTIONS // 10]
    picture = Picture("picture", LANDSCAPE)
    patch = picture if part else None
    requests = [AnswerRequest(picture, question, patch=patch, max_new_tokens=2) for question in questions]
    for result in family.engine.answer(requests):
        assert isinstance(result, AnswerResult), result
