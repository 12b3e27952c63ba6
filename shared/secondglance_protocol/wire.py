"""The messages on the wire, as frozen pydantic models that refuse unknown fields.

Every field of the REST contract is here and nowhere else. Not covered: limits that a server sets for itself
(it reports them in `ModelResponse.limits` and enforces them) and the images, which travel as binary.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, FailFast, Field, model_validator

from secondglance_protocol.protocol import (
    MAX_ID_CHARS,
    MAX_ORIGINAL_SIDE,
    MAX_QUESTION_BYTES,
    MAX_ROUNDS,
    MediaType,
)

Metric = Literal["min_entropy", "shannon", "margin"]
Aggregate = Literal["max", "mean", "first", "sum"]
Mode = Literal["auto", "answer_only", "always"]
Include = Literal["tokens", "relevance"]

Side = Annotated[int, Field(ge=1, le=MAX_ORIGINAL_SIDE, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Uncertainty = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]
ReasonName = Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9_]+$")]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _is_question(text: str) -> str:
    if len(text.encode("utf-8")) > MAX_QUESTION_BYTES:
        raise ValueError(f"a question holds at most {MAX_QUESTION_BYTES} bytes of UTF-8")
    if "\0" in text:
        raise ValueError("a question holds no NUL characters")
    return text


Question = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_BYTES), AfterValidator(_is_question)]


class ImageSize(_Wire):
    """Width and height in pixels, orientation applied."""

    width: Side
    height: Side


class GateSettings(_Wire):
    """What a request changes about the gate; what it leaves out is the model's default.

    A threshold belongs to one metric and aggregate, so changing either asks for a threshold as well.
    """

    metric: Metric | None = None
    aggregate: Aggregate | None = None
    threshold: Uncertainty | None = Field(default=None, description="Nats; a plain number for `margin`.")

    @model_validator(mode="after")
    def _threshold_comes_along(self) -> Self:
        if self.threshold is None and (self.metric or self.aggregate):
            raise ValueError("a gate with its own metric or aggregate needs its own threshold")
        return self


class InferenceRequest(_Wire):
    """Stage one: a question about an image whose original has `image` pixels."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"question": "What number is on the red sign?", "image": {"width": 4000, "height": 3000}}
            ]
        }
    )

    question: Question = Field(description="1 to 4096 bytes of UTF-8, no NUL.")
    image: ImageSize = Field(description="Size of the oriented original, not of the uploaded global image.")
    image_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ID_CHARS,
        description="The `image_id` of an earlier reply, in place of an image part.",
    )
    mode: Mode = "auto"
    gate: GateSettings | None = None
    max_new_tokens: int | None = Field(default=None, ge=1, strict=True)
    include: Annotated[tuple[Include, ...], FailFast()] = Field(default=(), max_length=2)
    max_rounds: int = Field(
        default=1,
        ge=1,
        le=MAX_ROUNDS,
        strict=True,
        description="How many regions may be asked for, one after the other, while the answer stays doubtful."
        " Send it only to a server whose `/v1/model` names more than 1: older ones refuse it.",
    )


class Confidence(_Wire):
    """How sure the answer is: each metric aggregated over its tokens; higher means less certain."""

    metric: Metric
    aggregate: Aggregate
    value: Uncertainty = Field(description="The chosen metric's aggregate, compared with `threshold`.")
    threshold: Uncertainty
    min_entropy: Uncertainty = Field(description="Nats.")
    shannon: Uncertainty = Field(description="Nats.")
    margin: Uncertainty = Field(description="1 minus the gap between the two likeliest tokens.")


class Box(_Wire):
    """A region as fractions of the oriented original: x to the right, y down."""

    x0: Unit
    y0: Unit
    x1: Unit
    y1: Unit

    @model_validator(mode="after")
    def _holds_area(self) -> Self:
        if not (self.x0 < self.x1 and self.y0 < self.y1):
            raise ValueError("a box needs x0 < x1 and y0 < y1")
        return self


class PixelBox(_Wire):
    """A half-open region in pixels of the oriented original: `right` and `bottom` lie just outside."""

    left: Count
    top: Count
    right: Count
    bottom: Count

    @model_validator(mode="after")
    def _holds_a_pixel(self) -> Self:
        if not (self.left < self.right and self.top < self.bottom):
            raise ValueError("a pixel box needs left < right and top < bottom")
        return self

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


class Roi(_Wire):
    """The region of interest; `box` is `pixels` divided by the original's size."""

    box: Box
    pixels: PixelBox


class PatchOffer(_Wire):
    """Where the crop of the RoI may be sent and how large it may be; larger crops are resized by the edge."""

    url: str = Field(description="Path on the same server, to be used with PUT.")
    max_width: int = Field(ge=1)
    max_height: int = Field(ge=1)
    max_pixels: int | None = Field(default=None, ge=1)
    max_bytes: int = Field(ge=1)
    formats: Annotated[tuple[MediaType, ...], FailFast()]
    expires_at: AwareDatetime


class Usage(_Wire):
    """What this stage cost; `received_bytes` counts the body of the request that this reply answers."""

    received_bytes: Count
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count


class TimingMs(_Wire):
    """Milliseconds spent per phase of this stage; 0 for a phase that did not run."""

    queue: Milliseconds = 0.0
    decode_image: Milliseconds = 0.0
    prefill: Milliseconds = 0.0
    generate: Milliseconds = 0.0
    localize: Milliseconds = 0.0


class TokenReport(_Wire):
    """One generated token; higher means less certain."""

    text: str
    min_entropy: Uncertainty
    shannon: Uncertainty
    margin: Uncertainty


class RelevanceReport(_Wire):
    """The map behind the RoI: `weights` is [rows][cols], `content` the picture's place in the grid."""

    # One wrong item is enough to refuse it: a list of millions would take minutes.
    weights: Annotated[tuple[Annotated[tuple[Uncertainty, ...], FailFast()], ...], FailFast()]
    content: Box


class InferenceResponse(_Wire):
    """The reply of both stages. With `needs_patch`, `answer` is a draft and `roi` and `patch` are set.

    After more than one region, `answer` and what is said of it (`confidence`, `doubtful`, `reason`,
    `off_domain`, `tokens`) are those of the surest look so far, and the last reply's `roi` is its region;
    `usage` and `timing_ms` are those of this look.
    """

    id: str
    status: Literal["answered", "needs_patch"]
    stage: Literal[1, 2]
    answer: str
    confidence: Confidence
    roi: Roi | None
    patch: PatchOffer | None
    image_id: str
    usage: Usage
    timing_ms: TimingMs
    model: str
    doubtful: bool | None = Field(
        default=None,
        description="Whether this answer should not be relied on: the gate's value is above the doubt"
        " threshold, the answer is empty, or the question is off-domain. Null from older servers.",
    )
    reason: ReasonName | None = Field(
        default=None,
        description="Why a wanted second stage is not asked for, or `empty_answer`; more names may come.",
    )
    off_domain: bool | None = Field(
        default=None,
        description="Whether the model says that it cannot answer this kind of question. Null from a model"
        " that cannot tell.",
    )
    tokens: tuple[TokenReport, ...] | None = Field(
        default=None, fail_fast=True, description="If `include` has `tokens`."
    )
    relevance: RelevanceReport | None = Field(
        default=None, description="If `include` has `relevance` and a region was looked for."
    )


class TokenEvent(_Wire):
    """One token of an answer that is still being made; texts put together are the answer before trimming."""

    text: str
    min_entropy: Uncertainty


class RegionEvent(_Wire):
    """The region that the server wants, and where its crop may go; `id` is the inference's.

    `draft` comes with a region that is asked for before the last token, of who accepts that: the reply as far
    as it is. The client may leave then and send the patch at once; the `reply` asks for the same region.
    """

    id: str
    roi: Roi
    patch: PatchOffer
    draft: InferenceResponse | None = None


class ImageBudget(_Wire):
    """What the server takes as an upload and the most pixels that its model can use."""

    max_width: int = Field(ge=1)
    max_height: int = Field(ge=1)
    max_pixels: int | None = Field(default=None, ge=1)
    max_bytes: int = Field(ge=1)
    formats: Annotated[tuple[MediaType, ...], FailFast()]


class DefaultGate(_Wire):
    """The gate of a request that does not name one."""

    metric: Metric
    aggregate: Aggregate
    threshold: Uncertainty
    doubt_threshold: Uncertainty | None = Field(
        default=None, description="A final answer above it is doubtful; null: `threshold`."
    )


class Limits(_Wire):
    """Every limit that the server enforces."""

    max_question_bytes: int
    max_new_tokens: int
    max_image_bytes: int = Field(description="Whole body of POST: both parts.")
    max_patch_bytes: int
    max_image_pixels: int
    max_patch_pixels: int
    min_side_pixels: int
    max_side_pixels: int
    max_aspect_ratio: float
    max_connections: int = Field(description="Of all clients; above it 503.")
    header_timeout_s: float = Field(description="From the connection to the last header; then 408.")
    max_header_bytes: int = Field(description="Request line and all headers; above it 431.")
    keep_alive_s: float = Field(description="After which an idle connection is closed: close yours before.")
    write_timeout_s: float = Field(description="For reading a reply; then the connection is cut.")
    body_timeout_s: float = Field(description="From the last header to the last byte; then 408.")
    min_body_bytes_per_s: int = Field(description="Of a body that takes longer than `body_grace_s`.")
    body_grace_s: float = Field(description="Seconds before `min_body_bytes_per_s` is held.")
    max_request_part_bytes: int = Field(description="Of part `request` of POST.")
    max_queue: int
    inference_deadline_s: float
    session_ttl_s: float
    max_sessions: int


class EncodingRecipe(_Wire):
    """How a picture is encoded: `scale` is a share of the sides that the server takes."""

    format: Literal["jpeg", "webp", "png"]
    quality: int = Field(ge=1, le=100)
    scale: float = Field(default=1.0, ge=0.1, le=1)


class Recipes(_Wire):
    """The encodings that were measured best for a model; null: the edge's own."""

    image: EncodingRecipe | None = None
    patch: EncodingRecipe | None = None


class ModelResponse(_Wire):
    """`GET /v1/model`: what an edge must know before its first question."""

    protocol_version: int
    name: str
    family: str
    image: ImageBudget
    patch: ImageBudget
    gate: DefaultGate
    limits: Limits
    answers_only: str | None = None  # why this model never asks for a region; None: it does
    domain: str | None = Field(
        default=None, max_length=1024, description="What the model can answer, in words; null: not known."
    )
    recipes: Recipes | None = Field(
        default=None, description="What an edge follows unless it is told otherwise; null: not measured."
    )
    raw_image: bool = Field(
        default=False,
        description="Whether POST also takes the image as its body and the request in header `X-Question`.",
    )
    max_rounds: int = Field(
        default=1, ge=1, description="The most regions that a request may allow with its `max_rounds`."
    )


class Problem(_Wire):
    """`application/problem+json` (RFC 9457); `code` is a key of `secondglance_protocol.errors.ERRORS`."""

    type: str
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    code: str
    request_id: str
    retryable: bool
