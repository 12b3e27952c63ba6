"""The server's documents, typed and bounded where they enter: one hostile reply costs one answer, no more.

The protocol's models hold the types. What only an edge must fear is checked here: numbers that no memory
holds, limits that contradict each other, a region outside the picture, names that the next request could not
carry. Everything raises ProtocolError.
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

from pydantic import BaseModel

from secondglance.conversation.steps import Arrived
from secondglance.documents import parse_document
from secondglance.errors import ProtocolError
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.orientation import Size
from secondglance_protocol.protocol import MAX_ID_CHARS, MAX_ORIGINAL_SIDE, PROTOCOL_VERSION
from secondglance_protocol.wire import (
    ImageBudget,
    InferenceResponse,
    Limits,
    ModelResponse,
    PatchOffer,
    RelevanceReport,
    Roi,
)

M = TypeVar("M", bound=BaseModel)

_MAX_COUNT = 2**53  # the largest whole number that JSON carries exactly
_MAX_MS = 1e9  # eleven days
_MAX_NAME_CHARS = 256
_MAX_ANSWER_CHARS = 256 * 1024
_MAX_TOKENS = 16_384
_MAX_MAP_CELLS = 512  # a side
_MAX_THICKENED_SIDE = 1024  # pixels that a server may want of the shorter side at least; ours wants 2
_MAX_SENT_SIDE = 16_383  # WebP has no longer one
_MAX_SENT_PIXELS = 25_000_000


def parse_model(arrived: Arrived) -> ModelResponse:
    """Return what the server takes, if this edge speaks its protocol."""
    model = _parse(ModelResponse, arrived)
    if model.protocol_version != PROTOCOL_VERSION:
        spoken = f"the server speaks protocol {model.protocol_version}, this edge {PROTOCOL_VERSION}"
        raise ProtocolError(f"{spoken}; update the older one")
    _check(all(0 < len(name) <= _MAX_NAME_CHARS for name in (model.name, model.family)), "the model's name")
    for budget in (model.image, model.patch):
        _check_budget(budget)
    _check_limits(model.limits, model.image)
    return model


def parse_inference(arrived: Arrived, *, stage: Literal[1, 2], size: Size) -> InferenceResponse:
    """Return the reply of `stage` about a picture of `size` pixels.

    A region that lies outside of the picture is left out: the answer that comes with it may be right.
    """
    reply = _parse(InferenceResponse, arrived)
    _check(reply.stage == stage, "stage")
    _check(all(0 < len(name) <= MAX_ID_CHARS for name in (reply.id, reply.image_id)), "an id")
    _check(len(reply.model) <= _MAX_NAME_CHARS, "the model's name")
    _check(len(reply.answer) <= _MAX_ANSWER_CHARS, "the answer")
    _check(reply.tokens is None or len(reply.tokens) <= _MAX_TOKENS, "tokens")
    _check(all(count <= _MAX_COUNT for count in reply.usage.model_dump().values()), "usage")
    _check(all(spent <= _MAX_MS for spent in reply.timing_ms.model_dump().values()), "timing_ms")
    if reply.patch is not None:
        _check_budget(reply.patch)
    if reply.relevance is not None:
        _check_relevance(reply.relevance)
    if reply.roi is not None and not _lies_within(reply.roi, size):
        return reply.model_copy(update={"roi": None})
    return reply


def image_budget(model: ModelResponse) -> PixelBudget:
    """Return how large the global image may be, within what this edge would encode for any server."""
    limits = model.limits
    return _pixel_budget(model.image, min_side=limits.min_side_pixels, max_aspect=limits.max_aspect_ratio)


def patch_budget(offer: PatchOffer) -> PixelBudget:
    """Return how large the patch may be, within what this edge would encode for any server."""
    return _pixel_budget(offer)


def _pixel_budget(
    budget: ImageBudget | PatchOffer, *, min_side: int = 1, max_aspect: float = math.inf
) -> PixelBudget:
    width, height = min(budget.max_width, _MAX_SENT_SIDE), min(budget.max_height, _MAX_SENT_SIDE)
    max_pixels = budget.max_pixels
    if width * height > _MAX_SENT_PIXELS:
        max_pixels = min(max_pixels or _MAX_SENT_PIXELS, _MAX_SENT_PIXELS)
    return PixelBudget(width, height, max_pixels, min_side=min_side, max_aspect=max_aspect)


def _parse(model: type[M], arrived: Arrived) -> M:
    """Return a reply's document; fields that a newer server adds are ignored."""
    try:
        return parse_document(model, arrived.body)
    except ValueError as exc:  # pydantic's ValidationError is one
        raise ProtocolError(f"the reply is no {model.__name__}; is this a Second Glance server?") from exc


def _check(is_right: bool, what: str) -> None:
    if not is_right:
        raise ProtocolError(f"the server's reply makes no sense: {what} is out of bounds")


def _check_budget(budget: ImageBudget | PatchOffer) -> None:
    _check(max(budget.max_width, budget.max_height) <= MAX_ORIGINAL_SIDE, "the size that it takes")
    _check(max(budget.max_bytes, budget.max_pixels or 1) <= _MAX_COUNT, "the size that it takes")


def _check_limits(limits: Limits, image: ImageBudget) -> None:
    for name, value in limits.model_dump().items():
        _check(0 <= value <= _MAX_COUNT, f"limits.{name}")  # false for NaN
    most = min(image.max_width, image.max_height, _MAX_THICKENED_SIDE)
    if image.max_pixels is not None:  # with room for a picture sent at a tenth of the size
        most = min(most, math.isqrt(image.max_pixels) // 10)
    _check(1 <= limits.min_side_pixels <= most, "limits.min_side_pixels")
    _check(limits.max_aspect_ratio >= 1, "limits.max_aspect_ratio")


def _lies_within(roi: Roi, size: Size) -> bool:
    return roi.pixels.right <= size[0] and roi.pixels.bottom <= size[1]


def _check_relevance(relevance: RelevanceReport) -> None:
    rows = relevance.weights
    columns = len(rows[0]) if rows else 0
    _check(1 <= len(rows) <= _MAX_MAP_CELLS and 1 <= columns <= _MAX_MAP_CELLS, "the relevance map")
    _check(all(len(row) == columns for row in rows), "the relevance map")
    content = relevance.content
    width, height = (content.x1 - content.x0) * columns, (content.y1 - content.y0) * len(rows)
    _check(min(width, height) >= 0.01, "the relevance map's content")  # cells; less is nothing to show
