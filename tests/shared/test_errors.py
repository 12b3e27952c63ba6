"""The error table covers every code and keeps its promises about retries."""

from __future__ import annotations

from secondglance_protocol.errors import ERRORS, ErrorCode, problem_type


def test_every_code_has_a_row() -> None:
    assert set(ERRORS) == set(ErrorCode)


def test_every_row_is_an_http_error_with_a_title() -> None:
    assert all(400 <= row.status <= 599 and row.title for row in ERRORS.values())


def test_failures_of_the_server_may_be_retried_and_broken_requests_may_not() -> None:
    assert all(row.retryable for row in ERRORS.values() if row.status >= 500)
    assert not any(row.retryable for row in ERRORS.values() if row.status in (400, 413, 415, 422))


def test_problem_types_are_distinct() -> None:
    assert len({problem_type(code) for code in ErrorCode}) == len(ErrorCode)
