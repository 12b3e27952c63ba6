"""U3: sure answers are right as often as was wished, on pictures that the threshold was not chosen on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secondglance_eval.asking.records import Record, TokenUncertainty
from secondglance_eval.errors import CalibrationError
from secondglance_eval.judging.calibration import calibration_of, described, one_target, write_calibration
from secondglance_eval.judging.doubt_choice import choose_and_test_doubt, doubt_threshold, final_answers
from secondglance_eval.judging.gate_choice import DEFAULT_GATE, SAFETY, GateChoice, Target, tried
from secondglance_eval.judging.study import Study
from secondglance_server.calibrated_gate import read_calibrated_gate
from tests.evaluation.synthetic import records

GATE = GateChoice(DEFAULT_GATE, 0.5)


def with_finals(seed: int, pictures: int) -> list[Record]:
    """Second answers of doubt d are right with the chance exp(-d), as drafts are."""
    rng = np.random.default_rng([seed, 1])
    rows = []
    for row in records(seed, pictures):
        doubt = float(rng.exponential(0.4))
        token = TokenUncertainty(min_entropy=doubt, shannon=doubt, margin=1 - float(np.exp(-doubt)))
        right = float(rng.random() < np.exp(-doubt))
        rows.append(row.model_copy(update={"final_tokens": (token,), "score": right}))
    return rows


def test_what_the_user_gets_is_judged_the_draft_where_the_gate_let_it_pass() -> None:
    rows = with_finals(0, 20)
    values, scores = final_answers(Study(rows), GATE)
    for row, value, score in zip(rows, values, scores, strict=True):
        draft = max(token.min_entropy for token in row.tokens)
        assert row.final_tokens is not None
        expected = (row.final_tokens[0].min_entropy, row.score) if draft > 0.5 else (draft, row.draft_score)
        assert (value, score) == pytest.approx(expected)


@pytest.mark.parametrize("wanted", [0.7, 0.8, 0.9])
def test_the_threshold_is_the_highest_that_keeps_the_wish(wanted: float) -> None:
    """Found again by trying every answer's value."""
    study = Study(with_finals(1, 200))
    threshold = doubt_threshold(study, GATE, wanted)
    values, scores = final_answers(study, GATE)
    images = np.asarray(study.image_ids)

    def keeps(limit: float) -> bool:
        sure = values <= limit
        groups = [scores[sure & (images == image)] for image in set(images[sure])]
        mean = float(np.mean(scores[sure]))
        rest = sum((group.sum() - mean * len(group)) ** 2 for group in groups)
        error = np.sqrt(len(groups) / (len(groups) - 1) * rest) / sure.sum()
        return bool(mean - SAFETY * error >= wanted)

    assert keeps(threshold)
    assert not any(keeps(limit) for limit in values[values > threshold])


def test_most_test_halves_reach_the_wish_and_keep_most_that_is_sure() -> None:
    tested = [choose_and_test_doubt(with_finals(seed, 120), GATE, 0.85) for seed in range(20)]
    assert sum(result.is_met for result in tested) >= 18
    assert np.mean([result.precision.value for result in tested]) == pytest.approx(0.87, abs=0.03)
    assert all(result.sure.low <= result.sure.value <= result.sure.high for result in tested)
    assert min(result.sure.value for result in tested) > 0.3


def test_answers_without_tokens_are_never_sure() -> None:
    rows = [row.model_copy(update={"tokens": (), "final_tokens": ()}) for row in with_finals(2, 20)]
    with pytest.raises(CalibrationError, match="out of reach"):
        doubt_threshold(Study(rows), GATE, 0.1)


def test_what_cannot_be_reached_is_said_with_what_can() -> None:
    with pytest.raises(CalibrationError, match=r"precision 1 is out of reach .*at most 0\.\d+ are right"):
        choose_and_test_doubt(with_finals(3, 100), GATE, 1.0)


def test_records_of_before_are_refused() -> None:
    with pytest.raises(CalibrationError, match="lack the tokens of second answers"):
        choose_and_test_doubt(records(0, 40), GATE, 0.8)


def test_a_wish_is_needed_unless_a_precision_is_one() -> None:
    assert one_target(or_none=True, max_retransmit=None, max_uplink_bytes=None, target_accuracy=None) is None
    with pytest.raises(CalibrationError, match="exactly one of"):
        one_target(or_none=True, max_retransmit=0.3, max_uplink_bytes=1.0, target_accuracy=None)


@pytest.mark.parametrize("target", [None, Target("max_retransmit", 0.6)])
def test_the_file_holds_the_threshold_where_the_gate_is(tmp_path: Path, target: Target | None) -> None:
    rows = with_finals(4, 100)
    result, doubt = tried(rows, GATE), choose_and_test_doubt(rows, GATE, 0.85)
    path = tmp_path / "gate.json"
    write_calibration(calibration_of(result, target, doubt, model="embedded", dataset="scenes"), path)
    loaded = read_calibrated_gate(path)
    assert (loaded.gate.threshold, loaded.gate.doubt_threshold) == (0.5, doubt.threshold)
    assert loaded.provenance.target["precision"] == 0.85
    assert loaded.expected["sure"].mean == pytest.approx(doubt.sure.value, abs=1e-4)
    assert f"doubtful: above {doubt.threshold:g}" in described(result, target, doubt)
    write_calibration(calibration_of(result, target, model="embedded", dataset="scenes"), path)
    assert "doubt_threshold" not in path.read_text(), "an older server refuses a name that it does not know"
