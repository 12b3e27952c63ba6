"""The engine without a server: the same conversations, answered by calling it directly with full batches.

What this costs is the least that a server around this engine can cost. Pictures are decoded before: reading
them is the server's work, not the engine's.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.instruments.edges import Conversation, Exchange, crop
from secondglance_server.engine.prefix import PrefixEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, Picture


def processor_ms(
    engine: PrefixEngine, conversations: Sequence[Conversation], exchanges: Sequence[Exchange], batch: int
) -> float:
    """Processor milliseconds for each request of `exchanges`, `batch` conversations at a time.

    The first batch warms up: it is answered once before, and forgotten.
    """
    regions = {e.conversation: e.region for e in exchanges if e.kind == "first"}
    numbers = sorted(regions)
    parts = [numbers[start : start + batch] for start in range(0, len(numbers), batch)]
    spent_s: list[float] = []
    for part in (parts[0], *parts):
        calls = requests_of(engine, conversations, part, regions)
        engine.prefixes.clear()
        started = time.process_time()
        for requests in calls:
            for result in engine.answer(requests):
                assert isinstance(result, AnswerResult), result
        spent_s.append(time.process_time() - started)
    return 1e3 * sum(spent_s[1:]) / len(exchanges)


def requests_of(
    engine: PrefixEngine,
    conversations: Sequence[Conversation],
    numbers: Sequence[int],
    regions: dict[int, tuple[int, ...]],
) -> list[list[AnswerRequest]]:
    """First questions, second stages and follow-ups of these conversations, a batch each."""
    budget = engine.info.patch
    offer: dict[str, Any] = {"max_width": budget.max_width, "max_height": budget.max_height}
    offer["max_pixels"] = budget.max_pixels
    first, second, follow_up = [], [], []
    for number in numbers:
        conversation = conversations[number]
        picture = Picture(f"direct {number}", pixels(conversation.upload))
        first.append(AnswerRequest(picture, conversation.question))
        follow_up.append(AnswerRequest(picture, conversation.follow_up))
        if region := regions[number]:
            box = dict(zip(("left", "top", "right", "bottom"), region, strict=True))
            patch = pixels(crop(conversation.original, box, offer))
            second.append(
                AnswerRequest(picture, conversation.question, patch=Picture(f"patch {number}", patch))
            )
    return [first, second, follow_up]


def pixels(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))
