"""What a request turned out to be, gathered on its way and read once at its end by log and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from server.skip import SkipReason
from shared.errors import ErrorCode
from shared.wire import Confidence, TimingMs

Tenant = str

NO_TENANT: Tenant = "public"  # of requests on a server without keys


@dataclass(slots=True)
class RequestFacts:
    """Mutable on purpose: each layer writes what it learns. Holds no question, file name or image bytes."""

    request_id: str
    tenant: Tenant = NO_TENANT
    stage: Literal[1, 2] | None = None
    outcome: Literal["answered", "needs_patch", "replayed", "client_gone"] | None = None
    skip: SkipReason | None = None
    error: ErrorCode | None = None
    inference_id: str | None = None
    received_bytes: int = 0
    confidence: Confidence | None = None
    timing_ms: TimingMs = field(default_factory=TimingMs)
