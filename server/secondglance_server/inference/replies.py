"""What the stages found out, written as the reply of the contract."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np

from secondglance_protocol.protocol import (
    API_PREFIX,
    MAX_QUESTION_BYTES,
    MAX_REQUEST_PART_BYTES,
    MEDIA_TYPES,
    PROTOCOL_VERSION,
)
from secondglance_protocol.wire import (
    Box,
    Confidence,
    DefaultGate,
    ImageBudget,
    Include,
    InferenceResponse,
    Limits,
    ModelResponse,
    PatchOffer,
    RelevanceReport,
    Roi,
    TimingMs,
    TokenReport,
    Usage,
)
from secondglance_server.engine.protocol import AttentionMap, EncoderBudget, EngineInfo, TokenStats
from secondglance_server.inference.device_queue import Answered
from secondglance_server.settings import ServerSettings

_ROUNDING_CELLS = 1e-6  # a border that ends on a cell's edge leaves nothing in the next one


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Everything a reply is made of. `relevance` is the map behind `roi`, if one was looked for."""

    inference_id: str
    stage: Literal[1, 2]
    image_id: str
    model: str
    answered: Answered
    confidence: Confidence
    received_bytes: int
    decode_ms: float
    include: tuple[Include, ...]
    localize_ms: float = 0.0
    roi: Roi | None = None
    patch: PatchOffer | None = None
    relevance: AttentionMap | None = None


def build_reply(outcome: Outcome) -> InferenceResponse:
    result = outcome.answered.result
    wants_relevance = "relevance" in outcome.include and outcome.relevance is not None
    return InferenceResponse(
        id=outcome.inference_id,
        status="needs_patch" if outcome.patch else "answered",
        stage=outcome.stage,
        answer=result.text,
        confidence=outcome.confidence,
        roi=outcome.roi,
        patch=outcome.patch,
        image_id=outcome.image_id,
        usage=Usage(
            received_bytes=outcome.received_bytes,
            prompt_tokens=result.prompt_tokens,
            cached_tokens=result.cached_tokens,
            completion_tokens=result.completion_tokens,
        ),
        timing_ms=TimingMs(
            queue=outcome.answered.queue_ms,
            decode_image=outcome.decode_ms,
            prefill=result.prefill_ms,
            generate=result.generate_ms,
            localize=outcome.localize_ms,
        ),
        model=outcome.model,
        tokens=tuple(map(_token_report, result.tokens)) if "tokens" in outcome.include else None,
        relevance=_relevance_report(outcome.relevance) if wants_relevance and outcome.relevance else None,
    )


def patch_offer(inference_id: str, info: EngineInfo, settings: ServerSettings) -> PatchOffer:
    """Where the crop may go, until when, and how large it may be."""
    budget = _budget(info.patch, settings.max_patch_bytes, settings.max_side_pixels)
    return PatchOffer(
        url=f"{API_PREFIX}/inferences/{inference_id}/patch",
        expires_at=datetime.now(UTC) + timedelta(seconds=settings.session_ttl_s),
        **budget.model_dump(),
    )


def model_response(info: EngineInfo, settings: ServerSettings) -> ModelResponse:
    """`GET /v1/model`."""
    return ModelResponse(
        protocol_version=PROTOCOL_VERSION,
        name=info.name,
        family=info.family,
        image=_budget(info.image, settings.max_image_bytes, settings.max_side_pixels),
        patch=_budget(info.patch, settings.max_patch_bytes, settings.max_side_pixels),
        gate=DefaultGate(
            metric=info.gate.metric, aggregate=info.gate.aggregate, threshold=info.gate.threshold
        ),
        limits=Limits(
            max_question_bytes=MAX_QUESTION_BYTES,
            max_new_tokens=info.max_new_tokens,
            max_image_bytes=settings.max_image_bytes,
            max_patch_bytes=settings.max_patch_bytes,
            max_image_pixels=settings.max_image_pixels,
            max_patch_pixels=settings.max_patch_pixels,
            min_side_pixels=settings.min_side_pixels,
            max_side_pixels=settings.max_side_pixels,
            max_aspect_ratio=settings.max_aspect_ratio,
            max_connections=settings.max_connections,
            header_timeout_s=settings.header_timeout_s,
            max_header_bytes=settings.max_header_bytes,
            keep_alive_s=settings.keep_alive_s,
            write_timeout_s=settings.write_timeout_s,
            body_timeout_s=settings.body_timeout_s,
            min_body_bytes_per_s=settings.min_body_bytes_per_s,
            body_grace_s=settings.body_grace_s,
            max_request_part_bytes=MAX_REQUEST_PART_BYTES,
            max_queue=settings.max_queue,
            inference_deadline_s=settings.inference_deadline_s,
            session_ttl_s=settings.session_ttl_s,
            max_sessions=settings.max_sessions,
        ),
    )


def _budget(pixels: EncoderBudget, max_bytes: int, max_side: int) -> ImageBudget:
    return ImageBudget(
        max_width=min(pixels.max_width, max_side),
        max_height=min(pixels.max_height, max_side),
        max_pixels=pixels.max_pixels,
        max_bytes=max_bytes,
        formats=MEDIA_TYPES,
    )


def _token_report(token: TokenStats) -> TokenReport:
    return TokenReport(
        text=token.text,
        min_entropy=max(0.0, token.min_entropy),
        shannon=max(0.0, token.shannon),
        margin=max(0.0, token.margin),
    )


def _relevance_report(attention: AttentionMap) -> RelevanceReport:
    """Return the map with the whole picture inside its grid.

    Where a model's patches do not cover all of the picture, cells of weight 0 stand for the rest.
    """
    rows, cols = attention.weights.shape
    x0, y0, x1, y1 = attention.content
    left, right, x0, x1 = _widened(x0, x1, cols)
    top, bottom, y0, y1 = _widened(y0, y1, rows)
    weights = np.pad(attention.weights.astype(float), ((top, bottom), (left, right)))
    return RelevanceReport(
        weights=tuple(map(tuple, weights.tolist())), content=Box(x0=x0, y0=y0, x1=x1, y1=y1)
    )


def _widened(start: float, end: float, n_cells: int) -> tuple[int, int, float, float]:
    """Return the cells to add before and after, and the span [start, end] in units of the wider grid."""
    before = math.ceil(max(0.0, -start * n_cells - _ROUNDING_CELLS))
    after = math.ceil(max(0.0, (end - 1.0) * n_cells - _ROUNDING_CELLS))
    wider = n_cells + before + after
    begins, ends = (start * n_cells + before) / wider, (end * n_cells + before) / wider
    return before, after, max(0.0, begins), min(1.0, ends)
