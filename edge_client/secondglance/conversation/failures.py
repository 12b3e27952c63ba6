"""From what came over the wire to an error of our tree; the only place where one becomes the other.

The shared table speaks where the server did. Statuses are read here only for answers that are no problem
document: those of proxies and of programs that are not Second Glance. `will_pass` tells an outage of the link
or the server from a fault of the picture, and `wait_s` says how long to wait in one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from secondglance.conversation.steps import Arrived, ExchangeResult, Lost
from secondglance.documents import parse_document
from secondglance.errors import (
    BadImageError,
    BusyError,
    EdgeError,
    ExpiredError,
    NotAllowedError,
    ProtocolError,
    RefusedError,
    ServerUnavailableError,
    TimedOutError,
    UsageError,
)
from secondglance.retry import RetryPolicy, parse_retry_after
from secondglance.text import printable
from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import Problem

_BY_CODE: dict[str, type[EdgeError]] = {
    ErrorCode.MALFORMED_REQUEST: UsageError,
    ErrorCode.UNAUTHENTICATED: NotAllowedError,
    ErrorCode.FORBIDDEN: NotAllowedError,
    ErrorCode.HEADERS_TIMEOUT: TimedOutError,
    ErrorCode.BODY_TIMEOUT: TimedOutError,
    ErrorCode.INFERENCE_EXPIRED: ExpiredError,
    ErrorCode.IMAGE_EXPIRED: ExpiredError,
    ErrorCode.BODY_TOO_LARGE: BadImageError,
    ErrorCode.IMAGE_TOO_LARGE: BadImageError,
    ErrorCode.IMAGE_SHAPE_REFUSED: BadImageError,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: BadImageError,
    ErrorCode.UNREADABLE_IMAGE: BadImageError,
    ErrorCode.UNORIENTED_IMAGE: BadImageError,
    ErrorCode.PATCH_SIZE_MISMATCH: BadImageError,
    ErrorCode.INVALID_REQUEST: UsageError,
    ErrorCode.IDEMPOTENCY_IN_PROGRESS: BusyError,
    ErrorCode.RATE_LIMITED: BusyError,
    ErrorCode.BUSY: BusyError,
    ErrorCode.NOT_READY: BusyError,
    ErrorCode.ENGINE_FAILED: BusyError,
    ErrorCode.DEADLINE_EXCEEDED: TimedOutError,
    ErrorCode.INTERNAL_ERROR: ServerUnavailableError,
}
_BY_STATUS: dict[int, type[EdgeError]] = {
    401: NotAllowedError,
    403: NotAllowedError,
    408: TimedOutError,
    413: BadImageError,
    429: BusyError,
    503: BusyError,
    504: TimedOutError,
}

_LATER = {ErrorCode.BUSY, ErrorCode.NOT_READY, ErrorCode.RATE_LIMITED, ErrorCode.IDEMPOTENCY_IN_PROGRESS}
_MAX_SHOWN_CHARS = 1000
_DOUBLINGS = 16  # by then every wait is the longest


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request gave nothing, and whether the same request may succeed later."""

    error: EdgeError
    retryable: bool
    retry_after_s: float | None = None


def failure_of(outcome: ExchangeResult) -> Failure | None:
    """None for a success."""
    if isinstance(outcome, Lost):
        return _of_lost(outcome)
    if 200 <= outcome.status < 300:
        return None
    retry_after_s = parse_retry_after(outcome.headers.get("retry-after"))
    problem = _problem(outcome)
    if problem is None:
        error = _of_status(outcome.status, retry_after_s)
        return Failure(error, _is_retryable(outcome.status), retry_after_s)
    kind = _BY_CODE.get(problem.code, RefusedError)
    error = kind(
        f"{_shown(problem.title)}: {_shown(problem.detail)}",
        code=_shown(problem.code),
        request_id=_shown(problem.request_id),
        retry_after_s=retry_after_s,
    )
    return Failure(error, problem.retryable, retry_after_s)


def _of_lost(lost: Lost) -> Failure:
    detail = _shown(lost.detail)
    if lost.kind == "connect":
        return Failure(ServerUnavailableError(f"cannot connect: {detail}"), retryable=True)
    if lost.kind == "timeout":
        return Failure(TimedOutError(f"no answer in time: {detail}"), retryable=False)
    if lost.kind == "network":
        return Failure(ServerUnavailableError(f"the connection broke: {detail}"), retryable=True)
    return Failure(ProtocolError(detail), retryable=False)


def _shown(text: str) -> str:
    """Return a server's words as an error may say them: on one line, printable, of bounded length."""
    return printable(text, max_chars=_MAX_SHOWN_CHARS)


def _problem(arrived: Arrived) -> Problem | None:
    try:
        return parse_document(Problem, arrived.body)
    except ValueError:  # pydantic's ValidationError is one
        return None


def _of_status(status: int, retry_after_s: float | None) -> EdgeError:
    kind = _BY_STATUS.get(status, ServerUnavailableError if status >= 500 else ProtocolError)
    message = f"HTTP {status} without a problem document; is this a Second Glance server?"
    return kind(message, retry_after_s=retry_after_s)


def _is_retryable(status: int) -> bool:
    return status in (408, 429) or status >= 500


def will_pass(error: EdgeError) -> bool:
    """Whether the same question is worth asking once the server is back or has room.

    False for what the server says of this very picture or question, a failing model included.
    """
    if error.code is not None:
        return error.code in _LATER
    return isinstance(error, ServerUnavailableError)


def wait_s(policy: RetryPolicy, failures: int) -> float:
    """Seconds before the next attempt after so many in a row: the policy's waits, without its limit."""
    wait = replace(policy, retries=_DOUBLINGS + 1).wait_s(min(failures, _DOUBLINGS), None, random.random)
    assert wait is not None, "fewer failures than retries"
    return wait
