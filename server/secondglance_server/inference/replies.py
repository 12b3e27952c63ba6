"""What the stages found out, written as the reply of the contract."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import numpy as np

from secondglance_protocol.defaults import DEFAULT_LIMITS
from secondglance_protocol.protocol import (
    API_PREFIX,
    MAX_ROUNDS,
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
from secondglance_server.engine.protocol import (
    AttentionMap,
    EncoderBudget,
    EngineInfo,
    GateDefaults,
    TokenStats,
)
from secondglance_server.inference.async_engine import Answered
from secondglance_server.inference.gate import is_unreliable
from secondglance_server.inference.skip import SkipReason
from secondglance_server.settings import ServerSettings

_ROUNDING_CELLS = 1e-6  # a border that ends on a cell's edge leaves nothing in the next one


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
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
    gate: GateDefaults
    skip: SkipReason | None = None
    localize_ms: float = 0.0
    roi: Roi | None = None
    patch: PatchOffer | None = None
    relevance: AttentionMap | None = None


# Of the limits, those that an operator may set; the others are constants of both sides.
_SET_LIMITS: Final = sorted(Limits.model_fields.keys() & ServerSettings.model_fields.keys())


def build_reply(findings: Findings) -> InferenceResponse:
    result = findings.answered.result
    wants_relevance = "relevance" in findings.include and findings.relevance is not None
    return InferenceResponse(
        id=findings.inference_id,
        status="needs_patch" if findings.patch else "answered",
        stage=findings.stage,
        answer=result.text,
        confidence=findings.confidence,
        roi=findings.roi,
        patch=findings.patch,
        image_id=findings.image_id,
        usage=Usage(
            received_bytes=findings.received_bytes,
            prompt_tokens=result.prompt_tokens,
            cached_tokens=result.cached_tokens,
            completion_tokens=result.completion_tokens,
        ),
        timing_ms=TimingMs(
            queue=findings.answered.queue_ms,
            decode_image=findings.decode_ms,
            prefill=result.prefill_ms,
            generate=result.generate_ms,
            localize=findings.localize_ms,
        ),
        model=findings.model,
        doubtful=is_unreliable(result, findings.confidence, findings.gate),
        reason=findings.skip or (None if result.text.strip() else "empty_answer"),
        off_domain=result.is_off_domain,
        tokens=tuple(map(_token_report, result.tokens)) if "tokens" in findings.include else None,
        relevance=_relevance_report(findings.relevance) if wants_relevance and findings.relevance else None,
    )


def with_surer_answer(look: InferenceResponse, earlier: InferenceResponse) -> InferenceResponse:
    """Return `look` with the answer of `earlier`, and all that is said of it, if that is surer.

    An answer that is not doubtful is surer than one that is; then one with text; then the lower gate value.
    """
    if _doubt(look) < _doubt(earlier):
        return look
    return look.model_copy(update={name: getattr(earlier, name) for name in _OF_AN_ANSWER})


_OF_AN_ANSWER: Final = ("answer", "confidence", "doubtful", "reason", "off_domain", "tokens")


def _doubt(reply: InferenceResponse) -> tuple[bool, bool, float]:
    return bool(reply.doubtful), not reply.answer.strip(), reply.confidence.value


def patch_offer(inference_id: str, info: EngineInfo, settings: ServerSettings) -> PatchOffer:
    """Where the crop may go, until when, and how large it may be."""
    budget = _budget(info.patch, settings.max_patch_bytes, DEFAULT_LIMITS.max_side_pixels)
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
        image=_budget(info.image, settings.max_image_bytes, DEFAULT_LIMITS.max_side_pixels),
        patch=_budget(info.patch, settings.max_patch_bytes, DEFAULT_LIMITS.max_side_pixels),
        gate=DefaultGate(
            metric=info.gate.metric,
            aggregate=info.gate.aggregate,
            threshold=info.gate.threshold,
            doubt_threshold=info.gate.doubt_threshold,
        ),
        limits=DEFAULT_LIMITS.model_copy(
            update={
                "max_new_tokens": info.max_new_tokens,
                **{name: getattr(settings, name) for name in _SET_LIMITS},
            }
        ),
        answers_only=info.answers_only,
        domain=info.domain,
        recipes=info.recipes,
        raw_image=True,
        max_rounds=1 if info.answers_only else MAX_ROUNDS,
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
