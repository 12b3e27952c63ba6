"""What one running app is made of: built in `create_app`, handed to routes and middleware, global nowhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from secondglance_server.errors import not_ready
from secondglance_server.inference.async_engine import AsyncEngine, QueueFull
from secondglance_server.inference.facts import RequestFacts
from secondglance_server.inference.idempotency import IdempotentReplies
from secondglance_server.inference.readiness import Readiness
from secondglance_server.inference.stores.protocol import Stores
from secondglance_server.inference.ticket import Ticket
from secondglance_server.inference.two_stages import TwoStages, queue_full
from secondglance_server.settings import ServerSettings
from secondglance_server.telemetry.metrics import Metrics
from secondglance_server.telemetry.tracing import Tracer


@dataclass(slots=True)
class ServerState:
    """`two_stages` comes with the loaded model."""

    settings: ServerSettings
    readiness: Readiness
    device: AsyncEngine
    stores: Stores
    replies: IdempotentReplies
    metrics: Metrics
    tracer: Tracer
    two_stages: TwoStages | None = None
    n_running: int = 0

    @contextmanager
    def admitted(self, stage: Literal[1, 2]) -> Iterator[None]:
        """Around a request. Raises ProblemError NOT_READY or BUSY for a stage that is not taken now."""
        self._check_admission(stage)
        self.n_running += 1
        try:
            yield
        finally:
            self.n_running -= 1

    @property
    def owes_nothing(self) -> bool:
        """No inference runs, and no client was asked for a patch that only this server can answer."""
        return self.n_running == 0 and self.stores.sessions.n_promised == 0

    def _check_admission(self, stage: Literal[1, 2]) -> None:
        self.loaded()
        if stage == 1 or self.readiness.has_failed or self.readiness.lacks:
            self.readiness.check()
        try:
            self.device.check_room(stage)
        except QueueFull as exc:
            raise queue_full(exc) from None

    async def forget(self, tenant: str, inference_id: str) -> None:
        """Forget an inference, its image and its reply by idempotency key.

        The last two go even if the inference itself is gone. Raises ProblemError as `recall`.
        """
        stores = self.stores
        replies = [await stores.replies.forget(tenant, inference_id)]
        try:
            replies.append(await stores.sessions.forget(tenant, inference_id))
        finally:
            for reply in filter(None, replies):
                await stores.images.forget(tenant, reply.image_id)
                if self.two_stages is not None:
                    self.two_stages.forget_pixels(reply.image_id)

    def ticket(self, facts: RequestFacts) -> Ticket:
        """Until the client's deadline or the setting's, whichever comes first."""
        return Ticket(min(facts.deadline, time.monotonic() + self.settings.inference_deadline_s))

    def loaded(self) -> TwoStages:
        """Raises ProblemError NOT_READY without a model."""
        if self.two_stages is None:
            raise not_ready(self.readiness.reason)
        return self.two_stages
