"""What one running app is made of: built in `create_app`, handed to routes and middleware, global nowhere."""

from __future__ import annotations

from dataclasses import dataclass

from server.device_queue import DeviceQueue
from server.engine.protocol import Engine
from server.idempotency import IdempotentReplies
from server.image_store import ImageStore
from server.metrics import Metrics
from server.problems import not_ready
from server.readiness import Readiness
from server.sessions import MemorySessionStore
from server.settings import ServerSettings
from server.tracing import Tracer
from server.two_stages import TwoStages


@dataclass(slots=True)
class ServerParts:
    """`engine` and `two_stages` come with the loaded model."""

    settings: ServerSettings
    readiness: Readiness
    device: DeviceQueue
    sessions: MemorySessionStore
    images: ImageStore
    replies: IdempotentReplies
    metrics: Metrics
    tracer: Tracer
    engine: Engine | None = None
    two_stages: TwoStages | None = None

    def loaded(self) -> TwoStages:
        """Raises ProblemError NOT_READY without a model. A draining server still serves what reaches it."""
        if self.two_stages is None:
            raise not_ready(self.readiness.reason)
        return self.two_stages
