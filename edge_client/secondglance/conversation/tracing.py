"""The trace that a conversation belongs to: W3C Trace Context, 70 bytes a request, so only where wanted."""

from __future__ import annotations

import re
import secrets
import sys
from dataclasses import dataclass
from typing import Self

TRACERESPONSE_HEADER = "traceresponse"  # level 2: the ids under which a server worked

_TRACERESPONSE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Trace:
    """Ids in lower-case hexadecimal. Without `span_id` each request is a span of its own."""

    trace_id: str
    span_id: str | None = None
    flags: int = 1  # sampled

    @classmethod
    def begun(cls) -> Self:
        """Return a new trace."""
        return cls(secrets.token_hex(16))

    def traceparent(self) -> str:
        """Return the header's value for one request."""
        return f"00-{self.trace_id}-{self.span_id or secrets.token_hex(8)}-{self.flags:02x}"


def trace_of_caller() -> Trace | None:
    """Return the OpenTelemetry span that is open where this is called, if the program uses OpenTelemetry.

    Nothing is imported for it: a program that traces has imported it already.
    """
    otel = sys.modules.get("opentelemetry.trace")
    if otel is None:
        return None
    span = otel.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return Trace(f"{span.trace_id:032x}", f"{span.span_id:016x}", int(span.trace_flags))


def traced_by_server(traceresponse: str) -> str:
    """Return the trace under which a server worked; empty if it does not say so."""
    match = _TRACERESPONSE.fullmatch(traceresponse)
    return match[1] if match else ""
