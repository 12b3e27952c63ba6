"""Every row of the shared error table has its place in the edge's tree."""

from __future__ import annotations

import pytest

from secondglance import errors
from secondglance.conversation.failures import failure_of
from secondglance.conversation.steps import Arrived, Lost
from secondglance_protocol.errors import ERRORS, ErrorCode

EXIT_CODES = {2, 65, 69, 75, 77, 124}


def arrived(response) -> Arrived:
    return Arrived(response.status_code, dict(response.headers), response.content)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_the_table_decides_about_retries_and_the_exit_code_is_documented(fault, code: ErrorCode) -> None:
    failure = failure_of(arrived(fault(code, retry_after="7")))
    assert failure is not None
    assert failure.retryable is ERRORS[code].retryable
    assert failure.retry_after_s == 7.0
    assert failure.error.exit_code in EXIT_CODES
    assert (failure.error.code, failure.error.request_id) == (code, "req_1")
    assert "scripted" in str(failure.error)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (301, errors.ProtocolError, False),
        (401, errors.NotAllowedError, False),
        (404, errors.ProtocolError, False),
        (408, errors.TimedOutError, True),
        (413, errors.BadImageError, False),
        (429, errors.BusyError, True),
        (500, errors.ServerUnavailableError, True),
        (502, errors.ServerUnavailableError, True),
        (503, errors.BusyError, True),
        (504, errors.TimedOutError, True),
    ],
)
def test_a_proxys_answer_is_judged_by_its_status(status: int, kind: type[Exception], retryable: bool) -> None:
    failure = failure_of(Arrived(status, {}, b"<html>"))
    assert failure is not None
    assert type(failure.error) is kind
    assert failure.retryable is retryable


@pytest.mark.parametrize("kind", ["connect", "timeout", "network", "protocol"])
def test_only_lost_connections_are_worth_another_try(kind) -> None:
    failure = failure_of(Lost(kind, "why"))
    assert failure is not None
    assert failure.retryable is (kind in ("connect", "network"))
    assert "why" in str(failure.error)


def test_a_success_is_no_failure() -> None:
    assert failure_of(Arrived(200, {}, b"{}")) is None


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = {line.split("──")[1].split()[0] for line in errors.__doc__.splitlines() if "──" in line}
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value is not errors.EdgeError
    }
    assert drawn == {name for name in defined if name.endswith("Error")}
