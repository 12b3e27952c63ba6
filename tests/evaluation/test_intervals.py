"""Means, differences and their intervals, by bootstrap over pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secondglance_eval.judging.intervals import Resamples, auroc, weighted_auroc


def independent(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def test_the_value_is_the_mean_of_what_was_measured() -> None:
    figure = Resamples(independent(4)).mean(np.array([1.0, 0.0, math.nan, 0.0]))
    assert figure.value == pytest.approx(1 / 3)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_the_interval_of_a_share_is_the_textbook_one() -> None:
    rng = np.random.default_rng(5)
    values = (rng.random(2000) < 0.3).astype(float)
    figure = Resamples(independent(2000), draws=4000).mean(values)
    half = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / 2000)
    assert figure.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_questions_about_one_picture_are_not_independent() -> None:
    """Each picture asked about ten times with the same outcome says no more than asked once."""
    values = np.repeat((np.random.default_rng(6).random(200) < 0.5).astype(float), 10)
    by_picture = Resamples([str(i // 10) for i in range(2000)]).mean(values)
    as_if_independent = Resamples(independent(2000)).mean(values)
    width, narrow = by_picture.high - by_picture.low, as_if_independent.high - as_if_independent.low
    assert width == pytest.approx(math.sqrt(10) * narrow, rel=0.2)


def test_a_difference_is_paired() -> None:
    """A method that is always right where the other is gains nothing, with certainty."""
    values = (np.random.default_rng(7).random(500) < 0.5).astype(float)
    figure = Resamples(independent(500)).difference(values, values)
    assert (figure.value, figure.low, figure.high) == (0, 0, 0)


def test_a_difference_counts_only_questions_that_both_were_asked() -> None:
    figure = Resamples(independent(3)).difference(np.array([1.0, 1.0, 1.0]), np.array([0.0, math.nan, 1.0]))
    assert figure.value == 0.5


def test_a_ratio_is_one_of_sums() -> None:
    assert Resamples(independent(2)).ratio(np.array([1.0, 3.0]), np.array([2.0, 6.0])).value == 0.5


def test_what_was_never_measured_is_a_dash() -> None:
    figure = Resamples(independent(2)).mean(np.array([math.nan, math.nan]))
    assert f"{figure:.1f}" == "-"
    assert f"{Resamples(independent(2)).mean(np.array([1.0, 1.0])):.1f}" == "1.0 [1.0, 1.0]"


def test_a_negative_factor_keeps_low_below_high() -> None:
    figure = Resamples(independent(50)).mean(np.arange(50.0)).times(-1)
    assert figure.low < figure.value < figure.high


def test_a_resample_draws_whole_pictures() -> None:
    resamples = Resamples(["a", "a", "b", "c", "c", "c"], draws=20)
    weights = resamples.question_weights
    assert weights[0].tolist() == [1] * 6
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights[:, 2])) > 1


def test_auroc_is_the_share_of_pairs_in_order_with_ties_counting_half() -> None:
    rng = np.random.default_rng(9)
    scores, wrong = rng.integers(0, 4, 30), rng.random(30) < 0.4
    pairs = [(p, n) for p in scores[wrong] for n in scores[~wrong]]
    expected = np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs])
    assert auroc(scores.tolist(), wrong.tolist()) == pytest.approx(expected)


def test_weights_are_repetitions() -> None:
    rng = np.random.default_rng(8)
    scores, wrong = rng.integers(0, 5, 30) / 5, rng.random(30) < 0.4
    times = rng.integers(0, 4, 30)
    repeated = auroc(np.repeat(scores, times).tolist(), np.repeat(wrong, times).tolist())
    assert weighted_auroc(scores, wrong, times[None].astype(float))[0] == pytest.approx(repeated)


def test_auroc_without_questions_is_undefined() -> None:
    assert math.isnan(auroc([], []))


def test_a_draft_that_counts_as_doubtful_without_tokens_ranks_highest() -> None:
    assert auroc([math.inf, 0.2, math.inf, 0.1], [True, False, True, False]) == 1.0
