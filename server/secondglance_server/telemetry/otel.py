"""Spans for OpenTelemetry: one a request, with one below it for each phase of its stage.

Imported only where the setting `tracing` is `otel`; needs the extra `otel`. Where spans go is said by the
standard `OTEL_*` variables, which the SDK reads itself. Spans hold what the log line holds and nothing more.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

from secondglance_protocol.protocol import TRACEPARENT_HEADER
from secondglance_server.inference.facts import RequestFacts
from secondglance_server.telemetry.tracing import RequestSpan, TraceContext, parse_traceparent

_SCOPE = "second-glance"


def otlp_tracer() -> OtelTracer:
    """Exports by OTLP over HTTP in the background; a collector that is away costs spans, not requests."""
    provider = TracerProvider(resource=Resource.create({"service.name": _SCOPE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OtelTracer(provider)


class OtelTracer:
    """Makes spans with `provider`, which it shuts down at its end."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(_SCOPE)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Headers) -> RequestSpan:
        caller = parse_traceparent(headers)
        parent = self._propagator.extract({TRACEPARENT_HEADER: str(caller)} if caller else {})
        return _OtelSpan(
            self._tracer, self._tracer.start_span("request", context=parent, kind=trace.SpanKind.SERVER)
        )

    def close(self) -> None:
        self._provider.shutdown()


class _OtelSpan:
    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def context(self) -> TraceContext:
        ids = self._span.get_span_context()
        return TraceContext(
            trace.format_trace_id(ids.trace_id), trace.format_span_id(ids.span_id), ids.trace_flags.sampled
        )

    def end(self, facts: RequestFacts, *, method: str, route: str, status: int) -> None:
        span = self._span
        span.update_name(f"{method} {route}")
        span.set_attributes(_attributes(facts, method=method, route=route, status=status))
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        below = trace.set_span_in_context(span)
        for phase in facts.phases:
            child = self._tracer.start_span(phase.name, context=below, start_time=phase.began_ns)
            child.end(end_time=phase.ended_ns)
        span.end()


def _attributes(facts: RequestFacts, *, method: str, route: str, status: int) -> dict[str, str | int | float]:
    """Names of OpenTelemetry's conventions for HTTP, and our own under `secondglance`."""
    found: dict[str, str | int | float | None] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "http.request.body.size": facts.received_bytes,
        "secondglance.request_id": facts.request_id,
        "secondglance.tenant": facts.tenant,
        "secondglance.stage": facts.stage,
        "secondglance.outcome": facts.outcome,
        "secondglance.skip": facts.skip,
        "secondglance.error": facts.error,
        "secondglance.inference_id": facts.inference_id,
    }
    if facts.confidence is not None:
        found |= {f"secondglance.timing_ms.{name}": ms for name, ms in facts.timing_ms.model_dump().items()}
        found |= {
            f"secondglance.gate.{name}": getattr(facts.confidence, name)
            for name in ("min_entropy", "shannon", "margin", "threshold")
        }
    return {name: value for name, value in found.items() if value is not None}
