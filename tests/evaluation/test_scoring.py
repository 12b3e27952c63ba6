"""Each metric against values worked out by hand from its published rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondglance_eval.datasets.example import Example
from secondglance_eval.judging.scoring import anls, choice_letter, levenshtein, normalize_vqa, vqa_accuracy


def example(*answers: str) -> Example:
    return Example("q", "i", "What?", answers, "read", bytes, 40, 30)


def ten(**counts: int) -> Example:
    """Ten people's answers: `counts` of each, the rest say something else."""
    said = [answer for answer, count in counts.items() for _ in range(count)]
    return example(*said, *(f"other {i}" for i in range(10 - len(said))))


@pytest.mark.parametrize(
    ("agreeing", "score"),
    [
        (0, 0.0),
        (1, 0.3),  # nine of the ten subsets hold it once: 9/10 * 1/3
        (2, 0.6),  # eight hold both, two hold one: (8 * 2/3 + 2 * 1/3) / 10
        (3, 0.9),  # seven hold all three, three hold two: (7 + 3 * 2/3) / 10
        (4, 1.0),
        (10, 1.0),
    ],
)
def test_vqa_accuracy_leaves_each_person_out_once(agreeing: int, score: float) -> None:
    assert vqa_accuracy("Red", ten(red=agreeing)) == pytest.approx(score)


def test_vqa_accuracy_is_defined_for_ten_people_only() -> None:
    with pytest.raises(ValueError, match="needs 10 answers, not 1"):
        vqa_accuracy("red", example("red"))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Red Sign", "red sign"),
        ("TWO", "2"),
        ("none", "0"),
        ("a dog and an apple", "dog and apple"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # two apostrophes short: not in the published table
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("wed", "wed"),
        ("1,000", "1000"),
        ("3.50", "3.50"),
        ("U.S.A.", "usa"),
        ("well-known", "well known"),
        ("yes - no", "yes  no".replace("  ", " ")),
        ("a/b / c-d", "ab c d"),  # the slash touches a space, so it vanishes; then the article would be `a`
        ("Who's there?", "who 's there"),
        ("one\ntwo", "1 2"),
        ("  ", ""),
    ],
)
def test_answers_are_normalized_as_the_challenge_does(text: str, normal: str) -> None:
    assert normalize_vqa(text) == normal


@pytest.mark.parametrize(
    ("said", "answers", "score"),
    [
        ("Denver Broncos", ("denver  broncos",), 1.0),
        ("12/15/89", ("12/15/88",), 7 / 8),
        ("Dear dr. Lobo", ("Mr. Lobo", "Dear Dr. Lobo"), 1.0),
        ("abcd", ("abxy",), 0.5),  # exactly a half is kept
        ("abc", ("axy",), 0.0),  # 1/3
        ("", ("a",), 0.0),
        ("a", ("",), 0.0),
        ("kitten", ("sitting",), 4 / 7),
    ],
)
def test_anls_is_the_nearest_answers_similarity(said: str, answers: tuple[str, ...], score: float) -> None:
    assert anls(said, example(*answers)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_edit_distances(one: str, other: str, distance: int) -> None:
    assert levenshtein(one, other) == levenshtein(other, one) == distance


@given(one=st.text(max_size=8), other=st.text(max_size=8), third=st.text(max_size=8))
def test_the_edit_distance_is_a_metric(one: str, other: str, third: str) -> None:
    assert (levenshtein(one, other) == 0) == (one == other)
    assert levenshtein(one, third) <= levenshtein(one, other) + levenshtein(other, third)
    assert abs(len(one) - len(other)) <= levenshtein(one, other) <= max(len(one), len(other))


@pytest.mark.parametrize("said", ["B", "(B)", " b.", "B) red", "B: red", "B red", "**B**"])
def test_a_letter_may_come_with_its_option(said: str) -> None:
    assert choice_letter(said, example("B")) == 1.0


@pytest.mark.parametrize("said", ["A", "", "Blue", "The answer is B", "Be", "B's", "1"])
def test_anything_else_is_no_letter(said: str) -> None:
    assert choice_letter(said, example("B")) == 0.0
