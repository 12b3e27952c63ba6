"""The pair without HTTP, for studies of hundreds of variants: the edge's pictures, the server's engine."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_client.budget import PixelBudget
from server.engine.protocol import AnswerRequest, AnswerResult, AttentionMap, Engine, Picture
from server.engine.protocol import PixelBudget as EngineBudget
from server.localization import locate, relative_attention
from shared.wire import ImageSize, PixelBox

_BATCH = 16


def answers(engine: Engine, requests: Sequence[AnswerRequest]) -> list[AnswerResult]:
    """In batches; raises what the engine could not answer."""
    results: list[AnswerResult] = []
    for start in range(0, len(requests), _BATCH):
        for result in engine.answer(requests[start : start + _BATCH]):
            if isinstance(result, Exception):
                raise result
            results.append(result)
    return results


def compared(engine: Engine, draft: AnswerResult, picture: Picture) -> AttentionMap:
    """The map that the server localises on; the neutral prompt runs only where that needs it."""
    assert draft.attention is not None, "stage one brings attention"
    if engine.info.localization.attention == "plain":
        return draft.attention
    return relative_attention(draft.attention, engine.neutral_attention(picture))


def region(engine: Engine, draft: AnswerResult, picture: Picture, size: ImageSize) -> PixelBox:
    return locate(compared(engine, draft, picture), size, engine.info.localization)


def edge_budget(budget: EngineBudget) -> PixelBudget:
    return PixelBudget(budget.max_width, budget.max_height, budget.max_pixels)


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
