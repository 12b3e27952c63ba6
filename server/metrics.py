"""Prometheus metrics, in a registry of their own per app so that two apps in a process do not collide.

The retransmission rate is `inferences_total{stage="1",outcome="needs_patch"}` over all of stage 1.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from server.request_facts import RequestFacts

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_NATS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5)


class Metrics:
    """Counts finished requests and shows the state of queue and sessions."""

    def __init__(self, *, depth: Callable[[], float], sessions: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "secondglance_requests",
            "HTTP requests by route and status.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._inferences = Counter(
            "secondglance_inferences",
            "Inference requests by stage and outcome; retransmissions are needs_patch.",
            ["stage", "outcome"],
            registry=self._registry,
        )
        self._skips = Counter(
            "secondglance_skips",
            "Doubtful answers for which no patch was asked.",
            ["reason"],
            registry=self._registry,
        )
        self._rejections = Counter(
            "secondglance_rejections",
            "Requests answered with a problem, by its code.",
            ["code"],
            registry=self._registry,
        )
        self._received = Counter(
            "secondglance_received_bytes",
            "Bytes of request bodies by stage.",
            ["stage"],
            registry=self._registry,
        )
        self._phases = Histogram(
            "secondglance_phase_seconds",
            "Seconds per phase of a stage.",
            ["stage", "phase"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._gate = Histogram(
            "secondglance_gate_value",
            "Aggregated uncertainty of answers by stage and metric (nats; margin has no unit).",
            ["stage", "metric"],
            buckets=_NATS,
            registry=self._registry,
        )
        Gauge(
            "secondglance_queue_depth", "Answers that wait for the device.", registry=self._registry
        ).set_function(depth)
        Gauge("secondglance_sessions", "Inferences remembered.", registry=self._registry).set_function(
            sessions
        )

    def observe(self, facts: RequestFacts, *, route: str, method: str, status: int) -> None:
        """Count one finished request. `route` is the template, never the path: labels must stay few."""
        self._requests.labels(route, method, str(status)).inc()
        if facts.error is not None:
            self._rejections.labels(facts.error).inc()
        if facts.stage is None:
            return
        stage = str(facts.stage)
        self._inferences.labels(stage, facts.outcome or "failed").inc()
        self._received.labels(stage).inc(facts.received_bytes)
        if facts.skip is not None:
            self._skips.labels(facts.skip).inc()
        if facts.outcome in ("answered", "needs_patch"):
            for phase, milliseconds in facts.timing_ms.model_dump().items():
                self._phases.labels(stage, phase).observe(milliseconds / 1000)
        if facts.confidence is not None:
            for metric in ("min_entropy", "shannon", "margin"):
                self._gate.labels(stage, metric).observe(getattr(facts.confidence, metric))

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)
