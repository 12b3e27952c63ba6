"""The questions that a scene can answer, in several wordings, with their answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scenes.signs import COLORS, Sign

Kind = Literal["read", "count", "presence", "color"]

# The first wording of each kind is the canonical one.
WORDINGS: dict[Kind, tuple[str, ...]] = {
    "read": (
        "What is written on the {color} sign?",
        "What does the {color} sign say?",
        "Read the {color} sign.",
        "What is the text on the {color} sign?",
        "Which characters are on the {color} sign?",
        "What's on the {color} sign?",
        "What number is on the {color} sign?",
        "What can you read on the {color} sign?",
    ),
    "count": (
        "How many signs are there?",
        "How many signs can you see?",
        "Count the signs.",
        "What is the number of signs?",
        "How many signs are in the picture?",
    ),
    "presence": (
        "Is there {a} {color} sign?",
        "Can you see {a} {color} sign?",
        "Does the picture show {a} {color} sign?",
        "Is any of the signs {color}?",
    ),
    "color": (
        "What color is the sign that says {text}?",
        "Which color is the sign with {text}?",
        "What is the color of the sign that reads {text}?",
        "What colour is the sign that says {text}?",
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """`sign`: index of the sign asked about; None where the question is about the whole scene."""

    kind: Kind
    text: str
    answer: str
    sign: int | None


def _word(wording: str, *, color: str = "", text: str = "") -> str:
    return wording.format(color=color, text=text, a="an" if color == "orange" else "a")


def make_questions(
    rng: np.random.Generator, signs: tuple[Sign, ...], *, canonical: bool = False
) -> tuple[Question, ...]:
    """Reading and colour for every sign, one count, presence of a colour that is there and one that isn't."""

    def wording(kind: Kind) -> str:
        return WORDINGS[kind][0] if canonical else str(rng.choice(WORDINGS[kind]))

    questions = []
    for index, sign in enumerate(signs):
        questions.append(Question("read", _word(wording("read"), color=sign.color), sign.text, index))
        questions.append(Question("color", _word(wording("color"), text=sign.text), sign.color, index))
    questions.append(Question("count", wording("count"), str(len(signs)), None))
    shown = [sign.color for sign in signs]
    for color, answer in (
        (str(rng.choice(shown)), "yes"),
        (str(rng.choice([c for c in COLORS if c not in shown])), "no"),
    ):
        questions.append(Question("presence", _word(wording("presence"), color=color), answer, None))
    return tuple(questions)
