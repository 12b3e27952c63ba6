"""W3C trace context: the trace that a request belongs to, and the seam to whatever exports spans.

`LocalTracer` exports nothing: it gives the log line its `trace_id` and answers with `traceresponse`. The
other implementation is `telemetry.otel`. Not covered: `tracestate`, which only matters to onward calls, and
this server makes none.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers

from secondglance_protocol.protocol import TRACEPARENT_HEADER
from secondglance_server.inference.facts import RequestFacts

TRACERESPONSE_HEADER = "traceresponse"  # W3C Trace Context level 2: the ids under which a server worked

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Ids in lower-case hexadecimal: 32 digits of the trace, 16 of the span."""

    trace_id: str
    span_id: str
    is_sampled: bool = False

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"


class RequestSpan(Protocol):
    """One request's span, from its headers to its reply."""

    @property
    def context(self) -> TraceContext: ...

    def end(self, facts: RequestFacts, *, method: str, route: str, status: int) -> None:
        """Close it with what the request turned out to be. `route` is the template, never the path."""
        ...


class Tracer(Protocol):
    """Makes spans; never raises because of what a client sent."""

    def begin(self, headers: Headers) -> RequestSpan: ...

    def close(self) -> None:
        """Export what is left; blocks."""
        ...


def parse_traceparent(headers: Headers) -> TraceContext | None:
    """The caller's context; None if there is none, two, or one that the specification calls invalid."""
    given = headers.getlist(TRACEPARENT_HEADER)
    match = _TRACEPARENT.fullmatch(given[0].strip()) if len(given) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


@dataclass(frozen=True, slots=True)
class _LocalSpan:
    context: TraceContext

    def end(self, facts: RequestFacts, *, method: str, route: str, status: int) -> None:
        pass


class LocalTracer:
    """Goes on with the caller's trace or begins one; exports nothing."""

    def begin(self, headers: Headers) -> RequestSpan:
        caller = parse_traceparent(headers)
        return _LocalSpan(
            TraceContext(
                caller.trace_id if caller else secrets.token_hex(16),
                secrets.token_hex(8),
                caller.is_sampled if caller else False,
            )
        )

    def close(self) -> None:
        pass
