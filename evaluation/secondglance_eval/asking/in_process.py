"""The pair without HTTP, for studies of hundreds of variants: the edge's pictures, the server's engine."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondglance.link.encoding_choice import EncodingChoice
from secondglance.link.uplink import Uplink
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.encoding import Recipe, encode
from secondglance.pictures.original import Original
from secondglance.settings import EdgeSettings
from secondglance_protocol.protocol import MEDIA_TYPES
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    EncoderBudget,
    Engine,
    Picture,
)
from secondglance_server.inference.intake import patch_limits
from secondglance_server.inference.localization import locate, relative_attention
from secondglance_server.inference.skip import seen_size, skip_before_looking, skip_region
from secondglance_server.settings import ServerSettings

_BATCH = 16
_NO_LIMIT = 2**30  # bytes of an encoded picture


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


def wanted_region(
    engine: Engine, draft: AnswerResult, picture: Picture, original: ImageSize
) -> PixelBox | None:
    """The region that the server asks for where a draft is unsure; None where no crop of it could help."""
    seen = seen_size(ImageSize(width=picture.rgb.shape[1], height=picture.rgb.shape[0]), engine.info.image)
    if draft.is_off_domain or skip_before_looking(original, seen):
        return None
    box = region(engine, draft, picture, original)
    limits = patch_limits(ServerSettings.model_construct())
    return None if skip_region(box, original, seen, engine.info.patch, limits) else box


class Edge:
    """The edge's work on one original: its views, encoded as it would send them, as the server decodes them.

    Encodings are the settings', or those that the model names. The engine knows a picture by its bytes, as
    the server's does: one original in two encodings is two pictures.
    """

    def __init__(self, engine: Engine, settings: EdgeSettings, original: bytes) -> None:
        self._engine = engine
        self._encodings = EncodingChoice(settings, Uplink(), engine.info.recipes)
        self._original = Original(original)
        self.size = ImageSize(width=self._original.size[0], height=self._original.size[1])
        recipe, scale = self._encodings.for_image()
        whole = self._original.global_image(edge_budget(engine.info.image).scaled(scale))
        self.whole = _sent(whole, recipe)

    def crop(self, box: PixelBox) -> Picture:
        budget = edge_budget(self._engine.info.patch).scaled(self._encodings.patch_scale)
        crop = self._original.patch(corners(box), budget)
        return _sent(crop, next(self._encodings.for_patch()))


def _sent(image: Image.Image, recipe: Recipe) -> Picture:
    data = written(image, recipe)
    return Picture(hashlib.sha256(data).hexdigest(), pixels(data))


def edge_budget(budget: EncoderBudget) -> PixelBudget:
    return PixelBudget(budget.max_width, budget.max_height, budget.max_pixels)


def corners(box: PixelBox) -> tuple[int, int, int, int]:
    """Left, top, right, bottom."""
    return box.left, box.top, box.right, box.bottom


def written(image: Image.Image, recipe: Recipe) -> bytes:
    """As the edge encodes it, however many bytes that takes."""
    encoded = encode(image, recipe, accepted=MEDIA_TYPES, max_bytes=_NO_LIMIT)
    assert encoded is not None, "there is no limit"
    return encoded.data


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
