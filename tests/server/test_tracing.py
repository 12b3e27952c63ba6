"""W3C trace context: a caller's trace goes on in the log line and in the reply; a broken one is replaced."""

from __future__ import annotations

import httpx
import pytest
from starlette.datastructures import Headers

from secondglance_server.telemetry.tracing import TraceContext, parse_traceparent
from tests.server.exchange import ask
from tests.server.listening import captured_log, lines

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def parsed(*values: str) -> TraceContext | None:
    return parse_traceparent(Headers(raw=[(b"traceparent", value.encode()) for value in values]))


def test_a_valid_context_is_read() -> None:
    assert parsed(f"00-{TRACE}-{SPAN}-01") == TraceContext(TRACE, SPAN, is_sampled=True)
    assert parsed(f"00-{TRACE}-{SPAN}-00") == TraceContext(TRACE, SPAN, is_sampled=False)
    assert parsed(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") == TraceContext(
        TRACE, SPAN, is_sampled=True
    )
    assert str(TraceContext(TRACE, SPAN, is_sampled=True)) == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("",),
        (f"00-{TRACE}-{SPAN}",),
        (f"00-{TRACE.upper()}-{SPAN}-01",),
        (f"00-{'0' * 32}-{SPAN}-01",),
        (f"00-{TRACE}-{'0' * 16}-01",),
        (f"ff-{TRACE}-{SPAN}-01",),
        (f"00-{TRACE}-{SPAN}-01-more",),
        (f"00-{TRACE}-{SPAN}-01\n",) * 2,
        (f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"),
    ],
)
def test_an_invalid_context_is_none(values: tuple[str, ...]) -> None:
    assert parsed(*values) is None


async def test_the_callers_trace_is_in_the_log_line_and_in_the_reply(client: httpx.AsyncClient) -> None:
    client.headers["traceparent"] = f"00-{TRACE}-{SPAN}-01"
    with captured_log() as log:
        reply = await ask(client)
    (line,) = lines(log)
    version, trace_id, span_id, flags = reply.headers["traceresponse"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert (line["trace_id"], line["span_id"]) == (TRACE, span_id)
    assert span_id != SPAN


async def test_a_request_without_a_usable_trace_begins_one(client: httpx.AsyncClient) -> None:
    with captured_log() as log:
        replies = [await client.get("/nope", headers={"traceparent": text}) for text in ("junk", "00-x-y-z")]
    traces = [line["trace_id"] for line in lines(log)]
    assert traces == [reply.headers["traceresponse"].split("-")[1] for reply in replies]
    assert len(set(traces)) == 2
    assert all(len(trace) == 32 and trace.strip("0") for trace in traces)
