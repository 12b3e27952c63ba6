"""The outermost layer: request ids, failures as problem documents, one log line and one count a request."""

from __future__ import annotations

import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.logs import log_failure, log_request
from server.metrics import Metrics
from server.problems import ProblemError, problem_response
from server.request_facts import RequestFacts
from shared.errors import ERRORS, ErrorCode
from shared.protocol import REQUEST_ID_HEADER

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # safe to log and to send back
_CLIENT_GONE = 499  # in logs and metrics only: nobody is there to read it


def facts_of(scope: Scope) -> RequestFacts:
    """The facts of the request, put there by `ObserveMiddleware`."""
    facts = scope["state"]["facts"]
    assert isinstance(facts, RequestFacts)
    return facts


class ObserveMiddleware:
    """Wraps everything; nothing escapes it but cancellation."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        facts = RequestFacts(request_id=_request_id(Headers(scope=scope)))
        scope.setdefault("state", {})["facts"] = facts
        reply = _Reply(send, facts.request_id)
        began = time.perf_counter()
        try:
            await _answer(self._app, facts, scope, receive, reply)
        finally:
            status = reply.status or _CLIENT_GONE
            route = _route_template(scope)
            elapsed_ms = 1000 * (time.perf_counter() - began)
            log_request(
                facts,
                route=route,
                method=scope["method"],
                status=status,
                sent_bytes=reply.sent_bytes,
                elapsed_ms=elapsed_ms,
            )
            self._metrics.observe(facts, route=route, method=_method_label(scope), status=status)


class _Reply:
    """Sends, and remembers what was sent."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0
        self.sent_bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self._request_id
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)


async def _answer(app: ASGIApp, facts: RequestFacts, scope: Scope, receive: Receive, reply: _Reply) -> None:
    try:
        await app(scope, receive, reply)
        return
    except ProblemError as exc:
        problem = exc
        if ERRORS[exc.code].status >= 500 and exc.__cause__ is not None:
            log_failure(facts, exc)
    except Exception as exc:  # outermost boundary of a request
        log_failure(facts, exc)
        problem = ProblemError(ErrorCode.INTERNAL_ERROR, "the failure has been logged with this request id")
    if reply.status:  # too late for a problem document; the connection ends in the middle of the reply
        return
    facts.error = problem.code
    await problem_response(problem, facts.request_id)(scope, receive, reply)


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"


def _route_template(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "unmatched")


def _method_label(scope: Scope) -> str:
    method = scope["method"]
    return method if method in {"GET", "POST", "PUT", "DELETE"} else "other"
