"""Spans of a request and of the phases of its stage, as an OpenTelemetry exporter gets them."""

from __future__ import annotations

import sys

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.errors import SettingsError
from secondglance_server.settings import ServerSettings
from secondglance_server.telemetry.otel import OtelTracer, otlp_tracer
from tests.server.exchange import ask, patch_for, put_patch, running_client
from tests.server.listening import captured_log, lines

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> OtelTracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OtelTracer(provider)


async def both_stages(client: httpx.AsyncClient) -> None:
    draft = (await ask(client)).json()
    await put_patch(client, draft["patch"]["url"], patch_for(draft))


async def test_each_stage_is_a_span_with_its_phases_below(
    engine: FakeEngine, tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    async with running_client(engine, tracer=tracer) as client:
        with captured_log() as log:
            await both_stages(client)
        spans = exporter.get_finished_spans()
    roots = [span for span in spans if span.kind is SpanKind.SERVER]
    assert [root.name for root in roots] == [
        "POST /v1/inferences",
        "PUT /v1/inferences/{inference_id}/patch",
    ]
    below = {
        root.name: [s for s in spans if s.parent and s.parent.span_id == root.context.span_id]
        for root in roots
    }
    assert [[span.name for span in below[root.name]] for root in roots] == [
        ["decode_image", "answer", "localize"],
        ["decode_image", "answer"],
    ]
    for root in roots:
        for span in below[root.name]:
            assert root.start_time <= span.start_time <= span.end_time <= root.end_time
    assert [root.attributes["secondglance.stage"] for root in roots] == [1, 2]
    assert [root.attributes["secondglance.outcome"] for root in roots] == ["needs_patch", "answered"]
    assert roots[0].attributes["secondglance.gate.min_entropy"] == 2.0
    assert [line["trace_id"] for line in lines(log)] == [f"{root.context.trace_id:032x}" for root in roots]
    assert [line["span_id"] for line in lines(log)] == [f"{root.context.span_id:016x}" for root in roots]


async def test_a_span_goes_on_with_the_callers_trace(
    engine: FakeEngine, tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    async with running_client(engine, tracer=tracer) as client:
        reply = await client.get("/nope", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        (span,) = exporter.get_finished_spans()
    assert span.name == "GET unmatched"
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == SPAN
    assert reply.headers["traceresponse"] == f"00-{TRACE}-{span.context.span_id:016x}-01"


async def test_a_failure_is_marked_and_its_phase_ends(
    tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    engine = FakeEngine(FakeScript(fails=lambda _: True))
    async with running_client(engine, tracer=tracer) as client:
        await ask(client)
        spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans["POST /v1/inferences"].status.status_code is StatusCode.ERROR
    assert spans["POST /v1/inferences"].attributes["secondglance.error"] == "engine_failed"
    assert "answer" in spans


async def test_what_the_caller_does_not_sample_is_not_exported_but_traced(
    engine: FakeEngine, tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    async with running_client(engine, tracer=tracer) as client:
        reply = await client.get("/healthz", headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
        assert exporter.get_finished_spans() == ()
    assert reply.headers["traceresponse"].split("-")[1] == TRACE


def test_the_setting_without_the_packages_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "secondglance_server.telemetry.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    match = r"SECONDGLANCE_SERVER_TRACING=otel: .*second-glance-server\[otel\]"
    with pytest.raises(SettingsError, match=match):
        create_app(ServerSettings(tracing="otel"), FakeEngine())


def test_without_the_setting_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "secondglance_server.telemetry.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    create_app(ServerSettings(), FakeEngine())


def test_the_exporter_of_the_setting_can_be_made_and_closed() -> None:
    otlp_tracer().close()
