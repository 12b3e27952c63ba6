"""What the comparison over a slow link makes of its rows."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.slow_link import Asked, figures, loss, saved


def asked(ms: float, *, server_ms: float = 10.0) -> Asked:
    return Asked("read", True, 2, ms, server_ms, 1000, "a / b", 32_000)


def test_time_is_compared_question_by_question() -> None:
    rows = {
        "fixed": [asked(100), asked(500), asked(900)],
        "aware": [asked(80), asked(480), asked(880, server_ms=30)],
    }
    found = figures(rows)
    assert found["saved_ms"] == {"mean": 20.0, "low": 20.0, "high": 20.0}, "questions differ, pairs do not"
    assert found["saved_link_ms"]["mean"] == pytest.approx(80 / 3, abs=0.1)


def test_the_interval_holds_zero_where_differences_are_chance() -> None:
    found = saved([-100.0, 110.0, -90.0, 100.0])
    assert found["low"] < 0 < found["mean"] < found["high"]


def test_what_is_lost_is_weighed_by_what_was_chosen() -> None:
    pairs = {
        "a": {"points_lost": 1.0, "standard_error": 0.5},
        "b": {"points_lost": 0.0, "standard_error": 0.0},
    }
    assert loss(Counter(a=1, b=3), {"pairs": pairs}) == pytest.approx(
        {"mean": 0.25, "low": 0.0, "high": 0.5}, abs=0.015
    )
