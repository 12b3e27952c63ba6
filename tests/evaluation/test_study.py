"""What is computed from always-retransmit's records, next to what a person would compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from secondglance_eval.asking.records import Record, TokenUncertainty
from secondglance_eval.judging.curves import compare_gates, curve
from secondglance_eval.judging.gates import ALL_GATES, GateStatistic, doubts
from secondglance_eval.judging.intervals import Resamples
from secondglance_eval.judging.study import Study

MakeRecord = Callable[..., Record]
GATE = GateStatistic("min_entropy", "max")


@pytest.fixture
def study(make_record: MakeRecord) -> Study:
    """Helped, sure and right, made worse, nothing to gain by a second glance, a question without a place."""
    return Study(
        [
            make_record("1/0", nats=2.0),
            make_record("1/1", nats=0.1, draft_score=1.0),
            make_record("2/0", nats=1.0, draft_score=1.0, score=0.0),
            make_record(
                "2/1", nats=3.0, score=0.0, second=None, roi=None, stage=1, asked_again=False, offer_bytes=0
            ),
            make_record("3/0", nats=0.4, draft_score=1.0, box=None, kind="count"),
            make_record("1/0", "random_crop", nats=2.0, score=0.0),
            make_record("1/1", "random_crop", nats=0.1, draft_score=1.0, score=0.0),
            make_record("2/0", "random_crop", nats=1.0, draft_score=1.0),
            make_record("2/1", "random_crop", nats=3.0, score=0.0, second=None, offer_bytes=0),
            make_record("3/0", "random_crop", nats=0.4, draft_score=1.0, box=None, kind="count"),
            make_record("1/0", "centre_crop", score=0.0),
            make_record("1/0", "oracle_crop"),
            make_record("1/1", "oracle_crop"),
            make_record("2/0", "oracle_crop"),
            make_record("2/1", "oracle_crop", score=0.0),
        ]
    )


def test_the_pair_takes_the_second_answer_where_the_gate_fires(study: Study) -> None:
    pair = study.pair(GATE, 0.5)
    assert pair.score.tolist() == [1, 1, 0, 0, 1]
    assert pair.uplink.tolist() == [10_000, 3000, 10_000, 3000, 3000]
    assert pair.second.tolist() == [1, 0, 1, 0, 0]


def test_an_answer_of_the_first_stage_comes_without_the_offer(study: Study) -> None:
    assert study.pair(GATE, 0.5).downlink.tolist() == [1700, 600, 1700, 900, 600]


def test_global_only_is_the_draft(study: Study) -> None:
    outcome = study.global_only()
    assert outcome.score.tolist() == [0, 1, 1, 0, 1]
    assert outcome.uplink.tolist() == [3000] * 5
    assert outcome.second.sum() == 0


def test_a_gate_that_always_fires_is_always_retransmit(study: Study) -> None:
    fired, always = study.pair(GATE, -1.0), study.measured("always")
    assert fired.score.tolist() == always.score.tolist()
    assert fired.uplink.tolist() == always.uplink.tolist()
    assert fired.downlink.tolist() == always.downlink.tolist()


def test_the_oracle_gate_looks_again_only_at_wrong_drafts(study: Study) -> None:
    outcome = study.oracle_gate()
    assert outcome.score.tolist() == [1, 1, 1, 0, 1]
    assert outcome.second.tolist() == [1, 0, 0, 0, 0]


def test_the_oracle_crop_is_the_draft_where_no_place_is_the_true_one(study: Study) -> None:
    outcome = study.oracle_crop()
    assert outcome.score.tolist() == [1, 1, 1, 0, 1]
    assert outcome.second[4] == 0


def test_what_was_not_asked_is_not_a_number(study: Study) -> None:
    assert np.isnan(study.measured("centre_crop").score).tolist() == [False, True, True, True, True]
    gated = study.gated("centre", np.ones(5), method="centre_crop")
    for column in (gated.score, gated.uplink, gated.downlink, gated.second):
        assert np.isnan(column).tolist() == [False, True, True, True, True]


def test_another_crop_where_the_gate_fires(study: Study) -> None:
    """The second row is sure, so what the crop would have spoilt there does not count."""
    gated = study.gated("there", study.doubts(GATE) > 0.5, method="random_crop")
    assert gated.score.tolist() == [0, 1, 1, 0, 1]
    assert gated.second.tolist() == [1, 0, 1, 0, 0]
    assert gated.uplink.tolist() == study.pair(GATE, 0.5).uplink.tolist()


def test_another_crop_at_the_rate_of_the_pair_is_the_mean_over_all_draws(study: Study) -> None:
    """Two second stages of five questions, four of which can have one: any two of those four."""
    pair = study.pair(GATE, 0.5)
    blind = study.at_the_rate_of(pair, "random_crop", "blind")
    assert blind.second.tolist() == [0.5, 0.5, 0.5, 0, 0.5]
    assert blind.second.mean() == pair.second.mean()
    draws = [
        study.gated("draw", np.isin(np.arange(5), pick), method="random_crop")
        for pick in itertools.combinations((0, 1, 2, 4), 2)
    ]
    for column in ("score", "uplink", "downlink"):
        mean = np.mean([getattr(draw, column) for draw in draws], axis=0)
        assert getattr(blind, column) == pytest.approx(mean)


def test_columns_keep_the_order_of_the_records(study: Study) -> None:
    assert study.image_ids == ["1", "1", "2", "2", "3"]
    assert study.kinds.tolist() == ["read"] * 4 + ["count"]


@pytest.mark.parametrize("gate", ALL_GATES, ids=lambda gate: gate.name)
def test_a_doubt_is_the_aggregate_of_its_metric(gate: GateStatistic) -> None:
    tokens = [TokenUncertainty(min_entropy=0.5, shannon=0.25, margin=0.125)]
    tokens.append(TokenUncertainty(min_entropy=1.5, shannon=0.75, margin=0.375))
    low, high = getattr(tokens[0], gate.metric), getattr(tokens[1], gate.metric)
    expected = {"max": high, "mean": (low + high) / 2, "first": low, "sum": low + high}[gate.aggregate]
    assert doubts([tokens], gate)[0] == pytest.approx(expected)


def test_a_draft_that_says_nothing_is_most_doubtful() -> None:
    assert doubts([[]], GATE)[0] == np.inf


def test_every_point_of_a_curve_is_the_pair_at_that_threshold(study: Study) -> None:
    line = curve(study, GATE)
    for threshold, accuracy, uplink, rate in zip(
        line.thresholds, line.accuracy, line.uplink, line.rate, strict=True
    ):
        pair = study.pair(GATE, threshold if threshold else -1.0)
        assert (accuracy, uplink, rate) == pytest.approx(
            (pair.score.mean(), pair.uplink.mean(), pair.second.mean())
        )


def test_a_curve_runs_from_global_only_to_always(study: Study) -> None:
    line = curve(study, GATE)
    assert line.uplink[0] == study.global_only().uplink.mean()
    assert line.uplink[-1] == study.measured("always").uplink.mean()


def test_a_threshold_parts_no_ties(make_record: MakeRecord) -> None:
    line = curve(Study(make_record(f"{i}/0", nats=1.0) for i in range(5)), GATE)
    assert line.rate.tolist() == [0, 1]


def test_the_gate_that_ranks_wrong_drafts_first_has_the_largest_area(make_record: MakeRecord) -> None:
    def tokens(min_entropy: float, margin: float) -> tuple[TokenUncertainty, ...]:
        return (TokenUncertainty(min_entropy=min_entropy, shannon=0.5, margin=margin),)

    records = [
        make_record(f"{i}/0", draft_score=float(i % 2), tokens=tokens(2 - i % 2, 0.5 + i % 2 / 4))
        for i in range(20)
    ]
    study = Study(records)
    figures = {one.gate.name: one for one in compare_gates(study, Resamples(study.image_ids, draws=50))}
    assert next(iter(figures.values())).gate.metric == "min_entropy"
    assert figures["min_entropy max"].auroc.value == 1
    assert figures["margin max"].auroc.value == 0
    assert figures["shannon max"].auroc.value == 0.5
    # all ten wrong drafts are righted in the first half of the bytes, then nothing changes
    assert figures["min_entropy max"].area.value == pytest.approx(0.875)
    assert figures["margin max"].area.value == pytest.approx(0.625)
