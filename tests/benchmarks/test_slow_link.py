"""What the comparison over a slow link makes of its rows."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.slow_link import Asked, figures, loss, saved


def asked(ms: float, *, server_ms: float = 10.0, seed: int = 1) -> Asked:
    return Asked(seed, "read", True, 2, ms, server_ms, 1000, "a / b", 32_000)


def test_time_is_compared_question_by_question() -> None:
    rows = {
        "fixed": [asked(100), asked(500), asked(900)],
        "aware": [asked(80), asked(480), asked(880, server_ms=30)],
    }
    found = figures(rows)
    assert found["saved_ms"] == {"mean": 20.0, "low": 20.0, "high": 20.0}, "questions differ, pairs do not"
    assert found["saved_link_ms"]["mean"] == pytest.approx(80 / 3, abs=0.1)


def test_the_interval_is_of_scenes_not_of_questions() -> None:
    """Forty questions about two scenes that disagree show nothing; about forty scenes they would."""
    gains = [-10.0] * 20 + [30.0] * 20

    def interval(seeds: list[int]) -> dict[str, float]:
        fixed = [asked(100 + gain, seed=seed) for gain, seed in zip(gains, seeds, strict=True)]
        return saved(fixed, [asked(100)] * 40, lambda row: row.ms)

    few, many = interval([1] * 20 + [2] * 20), interval(list(range(40)))
    assert few == {"mean": 10.0, "low": -10.0, "high": 30.0}
    assert many["mean"] == 10.0
    assert 0 < many["low"] < 10 < many["high"] < 20


def test_what_is_lost_is_weighed_by_what_was_chosen() -> None:
    pairs = {
        "a": {"points_lost": 1.0, "standard_error": 0.5},
        "b": {"points_lost": 0.0, "standard_error": 0.0},
    }
    assert loss(Counter(a=1, b=3), {"pairs": pairs}) == pytest.approx(
        {"mean": 0.25, "low": 0.0, "high": 0.5}, abs=0.015
    )
