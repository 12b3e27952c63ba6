"""Failures as `application/problem+json`: the exception that handlers raise and how it becomes bytes.

Statuses and titles come from the protocol's table; here is only the occurrence (detail, headers). Knows
nothing of routes.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.responses import Response

from secondglance_protocol.errors import ERRORS, ErrorCode, problem_type
from secondglance_protocol.protocol import PROBLEM_MEDIA_TYPE, REQUEST_ID_HEADER
from secondglance_protocol.wire import Problem


@dataclass(eq=False)
class ProblemError(Exception):
    """A request failed with `code`. `detail` is shown to the client: no secrets, no question, no paths."""

    code: ErrorCode
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def new_request_id() -> str:
    return f"req_{secrets.token_hex(8)}"


def busy(detail: str, *, retry_after_s: float = 1.0) -> ProblemError:
    """The queue is full; `Retry-After` is whole seconds, at least 1."""
    return ProblemError(ErrorCode.BUSY, detail, {"Retry-After": str(max(1, math.ceil(retry_after_s)))})


def not_ready(detail: str) -> ProblemError:
    return ProblemError(ErrorCode.NOT_READY, detail, {"Retry-After": "1"})


def problem_response(error: ProblemError, request_id: str) -> Response:
    """The response, with the request id in the body and in the header."""
    row = ERRORS[error.code]
    problem = Problem(
        type=problem_type(error.code),
        title=row.title,
        status=row.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        retryable=row.retryable,
    )
    return Response(
        problem.model_dump_json(),
        status_code=row.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers={**error.headers, REQUEST_ID_HEADER: request_id},
    )
