"""Failures in the shape of OpenAI's API, and the one table from the edge's errors to them.

`X-Should-Retry: false` tells the official clients not to repeat what cannot succeed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.responses import JSONResponse

from secondglance.errors import (
    BadImageError,
    BusyError,
    EdgeError,
    NotAllowedError,
    TimedOutError,
    UplinkBudgetError,
    UsageError,
)
from secondglance_protocol.errors import ErrorCode

_NO_RETRY = {"X-Should-Retry": "false"}


@dataclass(eq=False)
class ApiError(Exception):
    """A request failed. `param` names the field at fault, as the official API does."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def type(self) -> str:
        if self.status >= 500:
            return "server_error"
        return "rate_limit_error" if self.status == 429 else "invalid_request_error"

    def body(self) -> dict[str, object]:
        shown = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": shown}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=dict(self.headers))


def bad_request(message: str, *, code: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, code, param)


def busy(message: str, retry_after_s: float | None = None) -> ApiError:
    """429 with whole seconds to wait, at least one."""
    seconds = max(1, math.ceil(retry_after_s or 0))
    return ApiError(429, message, "rate_limit_exceeded", headers={"Retry-After": str(seconds)})


def gateway_failed() -> ApiError:
    """Return what an app is told of a fault that nobody foresaw; the traceback goes to the log."""
    return ApiError(500, "the gateway failed; its log says why", "internal_error")


def as_api_error(error: EdgeError) -> ApiError:
    """What an app is told about a failed conversation."""
    message = f"{error} (request {error.request_id})" if error.request_id else str(error)
    if isinstance(error, BadImageError):
        return bad_request(message, code="invalid_image", param="messages")
    if isinstance(error, UplinkBudgetError):
        return bad_request(message, code="uplink_budget_exceeded", param="second_glance.max_uplink_bytes")
    if isinstance(error, UsageError):
        return bad_request(message, code="invalid_value")
    if isinstance(error, NotAllowedError):  # of the edge's own key: nothing that the app could change
        return ApiError(
            502, f"the server refused this edge: {message}", "server_refused_key", None, _NO_RETRY
        )
    if isinstance(error, BusyError) and error.code != ErrorCode.ENGINE_FAILED:
        return busy(message, error.retry_after_s)
    if isinstance(error, TimedOutError):
        return ApiError(504, message, "timeout")
    return ApiError(502, message, error.code or "server_unavailable")
