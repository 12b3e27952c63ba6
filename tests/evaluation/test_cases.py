"""Which cases a report shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secondglance_eval.asking.records import Record
from secondglance_eval.judging.cases import CASES, pick_cases, what_happened

MakeRecord = Callable[..., Record]


@pytest.mark.parametrize(
    ("draft_score", "score", "doubtful", "words"),
    [
        (0.0, 1.0, True, "unsure and wrong, right after"),
        (1.0, 1.0, True, "unsure, right before and after"),
        (1.0, 0.0, True, "made worse"),
        (0.0, 0.0, True, "wrong also after"),
        (1.0, 1.0, False, "sure and right"),
        (0.0, 1.0, False, "the gate missed it"),
    ],
)
def test_a_case_is_named_by_what_the_gate_made_of_it(
    make_record: MakeRecord, draft_score: float, score: float, doubtful: bool, words: str
) -> None:
    record = make_record("1/0", draft_score=draft_score, score=score)
    assert words in what_happened(record, doubtful=doubtful)


def test_cases_are_of_different_pictures_and_of_every_kind_there_is(make_record: MakeRecord) -> None:
    records = [
        make_record(f"{i}/{n}", draft_score=float(i % 2), score=float(i % 3 > 0))
        for i in range(60)
        for n in (0, 1)
    ]
    cases = pick_cases(records, lambda record: record.image_id < "4")
    assert len(cases) == CASES
    assert len({case.record.image_id for case in cases}) == CASES
    assert len({case.what for case in cases}) == 5
    assert cases == pick_cases(records, lambda record: record.image_id < "4")


def test_few_pictures_give_few_cases(make_record: MakeRecord) -> None:
    assert len(pick_cases([make_record("1/0"), make_record("1/1")], lambda _: True)) == 1
