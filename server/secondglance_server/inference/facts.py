"""What a request turned out to be, gathered on its way and read once at its end by log, metrics and trace."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import Confidence, TimingMs, Usage
from secondglance_server.inference.skip import SkipReason

Tenant = str
Outcome = Literal["answered", "needs_patch", "replayed", "client_gone"]

NO_TENANT: Tenant = "public"  # of requests on a server without keys


def new_request_id() -> str:
    """Return an id for a request that came without a usable one."""
    return f"req_{secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a stage; nanoseconds since the epoch."""

    name: str
    began_ns: int
    ended_ns: int


@dataclass(slots=True)
class Pixels:
    """What the two stages save, counted where the server can know it: in pixels, not in bytes of a file it
    never sees.

    `original`: of the picture that was asked about. `uploaded`: of the image in this request's body.
    `asked`: of the patch that the reply offers to take, after scaling to the model's budget.
    """

    original: int = 0
    uploaded: int = 0
    asked: int = 0


@dataclass(slots=True)
class RequestFacts:
    """Mutable on purpose: each layer writes what it learns. Holds no question, file name or image bytes."""

    request_id: str
    trace_id: str = ""
    span_id: str = ""
    tenant: Tenant = NO_TENANT
    deadline: float = math.inf  # of the client, on the monotonic clock
    stage: Literal[1, 2] | None = None
    outcome: Outcome | None = None
    skip: SkipReason | None = None
    error: ErrorCode | None = None
    inference_id: str | None = None
    image_sha256: str | None = None  # of the image or patch as it arrived, refused ones too
    received_bytes: int = 0
    sent_bytes: int = 0
    pixels: Pixels = field(default_factory=Pixels)
    usage: Usage | None = None
    confidence: Confidence | None = None
    timing_ms: TimingMs = field(default_factory=TimingMs)
    phases: list[Phase] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    is_superseded: bool = False  # the client was asked for the region and need not wait for the reply
    first_token_s: float | None = None  # from the headers to the first token of a streamed reply

    def note_first_token(self) -> None:
        """Note that the first token of a streamed reply has come."""
        self.first_token_s = time.perf_counter() - self.began

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note when the block began and ended, however it ended."""
        began_ns = time.time_ns()
        try:
            yield
        finally:
            self.phases.append(Phase(name, began_ns, time.time_ns()))
