"""What schemas complain about and what the framework refuses by itself, as problems that quote no input."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match

from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError
from secondglance_server.http.problems import HttpProblemError

_MAX_DETAIL_CHARS = 500


def validation_problem(errors: Sequence[Mapping[str, Any]]) -> ProblemError:
    """MALFORMED_REQUEST for what is not JSON, INVALID_REQUEST for JSON that does not fit."""
    complaints = "; ".join(
        f"{'.'.join(str(part) for part in error['loc']) or 'request'}: {error['msg']}" for error in errors
    )
    is_json = all(error["type"] != "json_invalid" for error in errors)
    code = ErrorCode.INVALID_REQUEST if is_json else ErrorCode.MALFORMED_REQUEST
    return ProblemError(code, complaints[:_MAX_DETAIL_CHARS])


async def on_validation_error(request: Request, exc: Exception) -> Response:
    """Handler for FastAPI's own validation; always raises."""
    assert isinstance(exc, RequestValidationError)
    raise validation_problem(exc.errors()) from None


def refusal_handler(routes: Sequence[BaseRoute]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Handler for what the router refuses (404, 405); always raises. `routes`: all that the app has."""

    async def on_http_exception(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        if exc.status_code == 405:
            allowed = ", ".join(_allowed_methods(routes, request))
            raise HttpProblemError(
                ErrorCode.METHOD_NOT_ALLOWED, f"allowed: {allowed}", {"Allow": allowed}
            ) from None
        if exc.status_code == 404:
            raise ProblemError(ErrorCode.ROUTE_NOT_FOUND, "see /docs for the routes") from None
        raise ProblemError(ErrorCode.MALFORMED_REQUEST, str(exc.detail)[:_MAX_DETAIL_CHARS]) from exc

    return on_http_exception


def _allowed_methods(routes: Sequence[BaseRoute], request: Request) -> list[str]:
    """Of every route at this path; the router by itself names those of the first one only."""
    methods: set[str] = set()
    for route in routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
