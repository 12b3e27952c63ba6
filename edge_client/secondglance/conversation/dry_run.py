"""What would be sent, without sending: the conversation itself, stopped before its first upload.

No server is asked what it takes, so its answer is assumed: the contract's default limits and square pictures
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
from secondglance_protocol.protocol import MAX_REQUEST_PART_BYTES, MEDIA_TYPES, PROTOCOL_VERSION
from secondglance_protocol.wire import DefaultGate, ImageBudget, Limits, ModelResponse

_LIMITS = Limits(
    max_question_bytes=4096,
    max_new_tokens=16,
    max_image_bytes=4 * 1024 * 1024,
    max_patch_bytes=16 * 1024 * 1024,
    max_image_pixels=4_000_000,
    max_patch_pixels=25_000_000,
    min_side_pixels=2,
    max_side_pixels=8192,
    max_aspect_ratio=200.0,
    max_connections=1000,
    header_timeout_s=10.0,
    max_header_bytes=16 * 1024,
    keep_alive_s=15.0,
    write_timeout_s=30.0,
    body_timeout_s=60.0,
    min_body_bytes_per_s=1024,
    body_grace_s=10.0,
    max_request_part_bytes=MAX_REQUEST_PART_BYTES,
    max_queue=64,
    inference_deadline_s=60.0,
    session_ttl_s=120.0,
    max_sessions=1000,
)


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
    limit = _LIMITS.max_image_bytes
    budget = ImageBudget(max_width=side, max_height=side, max_bytes=limit, formats=MEDIA_TYPES)
    return ModelResponse(
        protocol_version=PROTOCOL_VERSION,
        name="assumed",
        family="assumed",
        image=budget,
        patch=budget,
        gate=DefaultGate(metric="min_entropy", aggregate="max", threshold=0.5),
        limits=_LIMITS,
    )
