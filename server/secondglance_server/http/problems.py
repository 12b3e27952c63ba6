"""Failures as `application/problem+json`: how a `ProblemError` becomes a response.

Statuses and titles come from the protocol's table. Knows nothing of routes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.responses import Response

from secondglance_protocol.errors import ERRORS, ErrorCode, problem_type
from secondglance_protocol.protocol import PROBLEM_MEDIA_TYPE, REQUEST_ID_HEADER
from secondglance_protocol.wire import Problem
from secondglance_server.errors import ProblemError


class HttpProblemError(ProblemError):
    """A problem whose response has further headers."""

    def __init__(self, code: ErrorCode, detail: str, headers: Mapping[str, str]) -> None:
        super().__init__(code, detail)
        self.headers = headers


def problem_document(error: ProblemError, request_id: str) -> Problem:
    """Return the document of a failure."""
    row = ERRORS[error.code]
    return Problem(
        type=problem_type(error.code),
        title=row.title,
        status=row.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        retryable=row.retryable,
    )


def problem_response(error: ProblemError, request_id: str) -> Response:
    """Return the response, with the request id in the body and in the header."""
    problem = problem_document(error, request_id)
    return Response(
        problem.model_dump_json(),
        status_code=problem.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers={**_headers(error), REQUEST_ID_HEADER: request_id},
    )


def _headers(error: ProblemError) -> dict[str, str]:
    headers = dict(error.headers) if isinstance(error, HttpProblemError) else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return headers
