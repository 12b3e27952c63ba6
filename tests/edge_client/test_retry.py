"""How long an edge waits, and when it gives up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondglance.retry import RetryPolicy, parse_retry_after

chance = st.floats(0, 1, exclude_max=True)


def test_waits_double_from_half_a_second_to_eight() -> None:
    policy = RetryPolicy(retries=10)
    assert [policy.wait_s(n, None, lambda: 0.0) for n in range(7)] == [0.5, 1, 2, 4, 8, 8, 8]


@given(st.integers(0, 9), chance)
def test_jitter_takes_away_at_most_half(retried: int, draw: float) -> None:
    policy = RetryPolicy(retries=10)
    full = policy.wait_s(retried, None, lambda: 0.0)
    wait = policy.wait_s(retried, None, lambda: draw)
    assert full is not None
    assert wait is not None
    assert full / 2 <= wait <= full


def test_two_retries_and_no_third() -> None:
    policy = RetryPolicy()
    assert policy.wait_s(1, None, lambda: 0.0) is not None
    assert policy.wait_s(2, None, lambda: 0.0) is None
    assert policy.wait_s(2, 1.0, lambda: 0.0) is None


@given(st.floats(0, 120), chance)
def test_the_server_is_never_asked_before_it_wants_to_be(retry_after_s: float, draw: float) -> None:
    wait = RetryPolicy().wait_s(0, retry_after_s, lambda: draw)
    assert wait is not None
    assert retry_after_s <= wait <= retry_after_s + 0.5


def test_a_wait_longer_than_two_minutes_is_not_waited() -> None:
    assert RetryPolicy().wait_s(0, 120.5, lambda: 0.0) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:28:10 -0000", 10.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("1e400", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, datetime(2015, 10, 21, 7, 28, tzinfo=UTC)) == seconds
