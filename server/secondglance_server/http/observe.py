"""The outermost layer: request and trace ids, failures as problem documents, one log line a request."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondglance_protocol.errors import ERRORS, ErrorCode
from secondglance_protocol.protocol import REQUEST_ID_HEADER
from secondglance_server.errors import ProblemError
from secondglance_server.http.door import destination_of
from secondglance_server.http.problems import problem_response
from secondglance_server.inference.facts import RequestFacts, new_request_id
from secondglance_server.telemetry.logs import log_failure, log_request
from secondglance_server.telemetry.metrics import Metrics
from secondglance_server.telemetry.tracing import TRACERESPONSE_HEADER, Tracer

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # safe to log and to send back
_CLIENT_GONE = 499  # in logs and metrics only: nobody is there to read it


def facts_of(scope: Scope) -> RequestFacts:
    """The facts of the request, put there by `ObserveMiddleware`."""
    facts = scope["state"]["facts"]
    assert isinstance(facts, RequestFacts)
    return facts


class ObserveMiddleware:
    """Wraps everything; nothing escapes it but cancellation."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        span = self._tracer.begin(headers)
        trace = span.context
        facts = RequestFacts(request_id=_request_id(headers), trace_id=trace.trace_id, span_id=trace.span_id)
        scope.setdefault("state", {})["facts"] = facts
        ids = {REQUEST_ID_HEADER: facts.request_id, TRACERESPONSE_HEADER: str(trace)}
        reply = _CountedReply(send, ids)
        began = time.perf_counter()
        try:
            with self._metrics.in_flight():
                await _answer(self._app, facts, scope, receive, reply)
        finally:
            status = reply.status or _CLIENT_GONE
            route, method = destination_of(scope).route, _method_label(scope)
            elapsed_s = time.perf_counter() - began
            facts.sent_bytes = reply.sent_bytes
            log_request(facts, route=route, method=method, status=status, elapsed_ms=1000 * elapsed_s)
            self._metrics.observe(facts, route=route, method=method, status=status, elapsed_s=elapsed_s)
            span.end(facts, route=route, method=method, status=status)


class _CountedReply:
    """Sends, and remembers what was sent."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send = send
        self._headers = headers
        self.status = 0
        self.sent_bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message).update(self._headers)
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)


async def _answer(
    app: ASGIApp, facts: RequestFacts, scope: Scope, receive: Receive, reply: _CountedReply
) -> None:
    try:
        await app(scope, receive, reply)
        return
    except Exception as exc:  # outermost boundary of a request
        problem = problem_of(exc, facts)
    if reply.status:  # too late for a problem document; the connection ends in the middle of the reply
        return
    await problem_response(problem, facts.request_id)(scope, receive, reply)


def problem_of(exc: Exception, facts: RequestFacts) -> ProblemError:
    """Return what the client is told of a failure; note it, and log what is no fault of the client."""
    if isinstance(exc, ProblemError):
        problem = exc
        is_ours = ERRORS[exc.code].status >= 500 and exc.__cause__ is not None
    else:
        problem = ProblemError(ErrorCode.INTERNAL_ERROR, "the failure has been logged with this request id")
        is_ours = True
    if is_ours:
        log_failure(facts, exc)
    _let_go(exc)
    facts.error = problem.code
    return problem


def _let_go(exc: BaseException) -> None:
    """Of the frames that it came through. They hold the body, and the tasks among them hold the exception: a
    circle that keeps refused bodies in memory until the collector comes by."""
    exc.__traceback__ = None


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()


def _method_label(scope: Scope) -> str:
    method = scope["method"]
    return method if method in {"GET", "HEAD", "POST", "PUT", "DELETE"} else "other"
