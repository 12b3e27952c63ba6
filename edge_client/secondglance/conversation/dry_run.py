"""What would be sent, without sending: the conversation itself, stopped before its first upload.

No server is asked what it takes, so its answer is assumed: the protocol's default limits and square pictures
of `settings.assumed_side` pixels.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from secondglance.conversation.conversation import Conversation
from secondglance.conversation.known_server import KnownServer
from secondglance.conversation.requests import Ask
from secondglance.conversation.steps import Compute, Send
from secondglance.pictures.original import ImageSource
from secondglance.settings import EdgeSettings
from secondglance_protocol.defaults import DEFAULT_LIMITS
from secondglance_protocol.protocol import MEDIA_TYPES, PROTOCOL_VERSION
from secondglance_protocol.wire import DefaultGate, ImageBudget, ModelResponse


def plan_first_request(
    source: ImageSource, ask: Ask, settings: EdgeSettings, *, model: ModelResponse | None = None
) -> Send:
    """Stage one's request as a server with `model` would get it, or one that takes `assumed_side`.

    Raises EdgeError.
    """
    known = KnownServer(max_images=0, model=model or _assumed_model(settings.assumed_side))
    result: Any = None
    with closing(Conversation(source, ask, known=known, settings=settings).run()) as steps:
        while True:
            step = steps.send(result)
            if isinstance(step, Send):
                return step
            assert isinstance(step, Compute), "nothing was sent, so there is nothing to wait for"
            result = step.work()


def _assumed_model(side: int) -> ModelResponse:
    limit = DEFAULT_LIMITS.max_image_bytes
    budget = ImageBudget(max_width=side, max_height=side, max_bytes=limit, formats=MEDIA_TYPES)
    return ModelResponse(
        protocol_version=PROTOCOL_VERSION,
        name="assumed",
        family="assumed",
        image=budget,
        patch=budget,
        gate=DefaultGate(metric="min_entropy", aggregate="max", threshold=0.5),
        limits=DEFAULT_LIMITS,
        raw_image=True,
    )
