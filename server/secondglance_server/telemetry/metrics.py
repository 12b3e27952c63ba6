"""Prometheus metrics: counts of finished requests, and gauges of what the app holds and is right now.

Each app has a registry of its own, so that two apps in a process do not collide. Names and labels are stable:
dashboards and alerts of others depend on them (`docs/operations.md` lists them). Labels never hold what a
client wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from secondglance_protocol.errors import ErrorCode
from secondglance_server.engine.protocol import EngineInfo
from secondglance_server.inference.async_engine import AsyncEngine
from secondglance_server.inference.facts import Outcome, RequestFacts
from secondglance_server.inference.readiness import Readiness
from secondglance_server.inference.skip import SkipReason
from secondglance_server.inference.stores.protocol import Stores

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_NATS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5)

_PREFIX: Final = "secondglance_"


class Metrics:
    """The metrics of one app; `registry` takes further collectors."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter(
            "requests", "HTTP requests by route and status.", "route", "method", "status"
        )
        self._request_seconds = self._histogram(
            "request_seconds",
            "Seconds from headers to the end of the reply.",
            _SECONDS,
            "route",
            "method",
        )
        self._in_flight = Gauge(
            f"{_PREFIX}requests_in_flight",
            "HTTP requests being received or answered.",
            registry=self.registry,
        )
        self._inferences = self._counter(
            "inferences",
            "Inference requests by stage and outcome; needs_patch means that a patch was asked for.",
            "stage",
            "outcome",
        )
        self._skips = self._counter(
            "skips", "Doubtful answers for which no patch was asked, by reason.", "reason"
        )
        self._rejections = self._counter(
            "rejections", "Requests answered with a problem, by its code.", "code"
        )
        self._received = self._counter("received_bytes", "Bytes of request bodies by stage.", "stage")
        self._sent = self._counter("sent_bytes", "Bytes of reply bodies by stage.", "stage")
        self._original = self._counter(
            "original_pixels", "Pixels of the original pictures of answered first stages."
        )
        self._uploaded = self._counter(
            "uploaded_pixels", "Pixels of the images in answered requests, by stage.", "stage"
        )
        self._asked = self._counter("asked_pixels", "Pixels of the patches that replies asked for.")
        self._tokens = self._counter(
            "tokens",
            "Tokens by stage and kind; cached: prompt tokens that were not computed again.",
            "stage",
            "kind",
        )
        self._phases = self._histogram(
            "phase_seconds", "Seconds of each phase of an answered stage.", _SECONDS, "stage", "phase"
        )
        self._first_token = self._histogram(
            "first_token_seconds",
            "Seconds from headers to the first token of a streamed reply, by stage.",
            _SECONDS,
            "stage",
        )
        self._batches = self._histogram("batch_size", "Answers that ran on the device together.", _BATCHES)
        self._gate = self._histogram(
            "gate_value",
            "Aggregated uncertainty of answers by stage and metric (nats; margin has no unit).",
            _NATS,
            "stage",
            "metric",
        )

        self._store_operations = self._counter(
            "store_operations",
            "Operations on the shared store by verb and outcome: ok, away (no answer in time) or full.",
            "verb",
            "outcome",
        )
        self._store_seconds = self._histogram(
            "store_seconds", "Seconds of each operation on the shared store.", _SECONDS, "verb"
        )

        self._begin_at_zero()

    def observe_batch(self, answers: int) -> None:
        """Count one batch on the device; called from its thread."""
        self._batches.observe(answers)

    def show_state(
        self,
        *,
        readiness: Readiness,
        device: AsyncEngine,
        stores: Stores,
        cache_bytes: Callable[[], float],
        max_queue: int,
        max_sessions: int,
    ) -> None:
        """Add the gauges, which are read when somebody asks for the metrics; once per app."""
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "ready": ("1 if the server wants requests, 0 if not.", lambda: readiness.is_ready),
            "queue_depth": ("Answers that wait for the device.", lambda: device.depth),
            "queue_limit": ("Answers that may wait; above it requests are refused.", lambda: max_queue),
            "sessions": ("Inferences remembered.", lambda: stores.sessions.holding.count),
            "sessions_limit": (
                "Most inferences remembered; above it the tenant with the most loses its oldest.",
                lambda: max_sessions,
            ),
            "session_bytes": (
                "Bytes of encoded images whose inferences wait for a patch.",
                lambda: stores.sessions.holding.n_bytes,
            ),
            "stored_images": (
                "Encoded images that can be asked about by id.",
                lambda: stores.images.holding.count,
            ),
            "stored_image_bytes": ("Bytes of the stored images.", lambda: stores.images.holding.n_bytes),
            "idempotent_replies": (
                "Replies remembered by idempotency key.",
                lambda: stores.replies.holding.count,
            ),
            "prefix_cache_bytes": ("Bytes of the engine's cached image prefixes.", cache_bytes),
        }
        for name, (says, value) in gauges.items():
            Gauge(_PREFIX + name, says, registry=self.registry).set_function(value)

    def show_server(self, *, tag: str, version: str) -> None:
        """Add the server's tag and version as labels of a gauge that is always 1; once per app."""
        labels = {"server": tag, "version": version}
        says = "The server's tag and version; always 1."
        Gauge(f"{_PREFIX}server_info", says, labels, registry=self.registry).labels(**labels).set(1)

    def show_model(self, info: EngineInfo) -> None:
        """Add the loaded model as labels of a gauge that is always 1; once per app."""
        labels = {"model": info.name, "family": info.family, "device": info.device, "dtype": info.dtype}
        gauge = Gauge(f"{_PREFIX}model_info", "The loaded model; always 1.", labels, registry=self.registry)
        gauge.labels(**labels).set(1)

    def in_flight(self) -> AbstractContextManager[object]:
        """Around a request, from its headers to its end."""
        return self._in_flight.track_inprogress()

    def observe(self, facts: RequestFacts, *, route: str, method: str, status: int, elapsed_s: float) -> None:
        """Count one finished request. `route` is the template, never the path: labels must stay few."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route, method).observe(elapsed_s)
        if facts.error is not None:
            self._rejections.labels(facts.error).inc()
        if facts.stage is not None:
            self._observe_stage(facts, str(facts.stage))

    def _observe_stage(self, facts: RequestFacts, stage: str) -> None:
        self._inferences.labels(stage, facts.outcome or "failed").inc()
        self._received.labels(stage).inc(facts.received_bytes)
        self._sent.labels(stage).inc(facts.sent_bytes)
        if facts.first_token_s is not None:
            self._first_token.labels(stage).observe(facts.first_token_s)
        if facts.skip is not None:
            self._skips.labels(facts.skip).inc()
        if facts.outcome in ("answered", "needs_patch"):
            for phase, milliseconds in facts.timing_ms.model_dump().items():
                self._phases.labels(stage, phase).observe(milliseconds / 1000)
            self._original.inc(facts.pixels.original)
            self._uploaded.labels(stage).inc(facts.pixels.uploaded)
            self._asked.inc(facts.pixels.asked)
        if facts.usage is not None:
            self._tokens.labels(stage, "prompt").inc(facts.usage.prompt_tokens)
            self._tokens.labels(stage, "cached").inc(facts.usage.cached_tokens)
            self._tokens.labels(stage, "completion").inc(facts.usage.completion_tokens)
        if facts.confidence is not None:
            for metric in ("min_entropy", "shannon", "margin"):
                self._gate.labels(stage, metric).observe(getattr(facts.confidence, metric))

    def observe_store(self, verb: str, outcome: str, elapsed_s: float) -> None:
        """Count one operation on the shared store."""
        self._store_operations.labels(verb, outcome).inc()
        self._store_seconds.labels(verb).observe(elapsed_s)

    def refused(self, code: ErrorCode) -> None:
        """Count what was answered with a problem before it became a request."""
        self._rejections.labels(code).inc()

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)

    def _begin_at_zero(self) -> None:
        """Show the counters whose labels are known before the first event: a rate needs a value before it."""
        for code in ErrorCode:
            self._rejections.labels(code)
        for reason in get_args(SkipReason):
            self._skips.labels(reason)
        for stage in ("1", "2"):
            for outcome in (*get_args(Outcome), "failed"):
                self._inferences.labels(stage, outcome)
            for kind in ("prompt", "cached", "completion"):
                self._tokens.labels(stage, kind)
            for counter in (self._received, self._sent, self._uploaded):
                counter.labels(stage)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(_PREFIX + name, says, labels, buckets=buckets, registry=self.registry)
