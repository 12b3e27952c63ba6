"""What the HTTP server asks of a model: the seam between `server` and torch.

An engine turns (image, question) into (answer, per-token statistics, attention on the image grid). It knows
nothing of HTTP, sessions, gates or boxes. Importing this module loads numpy and nothing heavier; torch lives
in the engines.

Not covered: scheduling. One thread owns the engine and calls it; only `prepare` and `held_bytes` are for any
thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secondglance_protocol.wire import Aggregate, Metric, Recipes

GridBox: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom; the grid is [0, 1]


@dataclass(frozen=True, slots=True)
class EncoderBudget:
    """The largest picture that the model's encoder can use.

    `max_pixels` only for encoders with a free aspect ratio.
    """

    max_width: int
    max_height: int
    max_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class GateDefaults:
    """The gate that was measured best for this model; thresholds in nats (plain numbers for `margin`).

    Above `threshold` a first answer wants a second look; above `doubt_threshold` a last one is doubtful.
    """

    metric: Metric = "min_entropy"
    aggregate: Aggregate = "max"
    threshold: float = 0.5
    doubt_threshold: float | None = None  # None: `threshold`

    @property
    def doubts_above(self) -> float:
        """The gate's value above which a last answer is doubtful."""
        return self.threshold if self.doubt_threshold is None else self.doubt_threshold


@dataclass(frozen=True, slots=True)
class LocalizationDefaults:
    """How this model's attention becomes a box: which map, and the origin of that choice."""

    attention: Literal["plain", "relative"] = "relative"
    window: Literal["vicrop", "mass"] = "vicrop"
    base_side: int = 336  # ViCrop's base window, in pixels of the original (the encoder's input side)
    min_side_cells: float = 3.0  # smallest window of "mass"
    pad_cells: float = 0.5
    origin: str = "relative depth rule"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an edge and an operator may know of the loaded model; constant for the life of the engine."""

    name: str
    family: str
    device: str
    dtype: str
    image: EncoderBudget
    patch: EncoderBudget
    max_new_tokens: int
    gate: GateDefaults = field(default_factory=GateDefaults)
    localization: LocalizationDefaults = field(default_factory=LocalizationDefaults)
    usual_new_tokens: int | None = None  # where a request doesn't say; None: the server's setting
    notes: tuple[str, ...] = ()  # reasons of automatic choices, logged once
    answers_only: str | None = None  # why this model never asks for a region; None: it does
    domain: str | None = None  # what the model can answer, in words; None: not known
    recipes: Recipes | None = None  # encodings that were measured best for it


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded image.

    `rgb`: uint8 [height, width, 3]. `key`: names content *and* tenant; equal keys share a cached
    prefix.
    """

    key: str
    rgb: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TokenStats:
    """One generated token.

    Higher means less certain. `min_entropy`, `shannon` in nats, `margin` in [0, 1].
    """

    text: str
    min_entropy: float
    shannon: float
    margin: float


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMap:
    """Attention from the last prompt token to the global image's tokens, averaged over heads (and
    layers, if several).

    `weights`: float32 [rows, cols], non-negative. `content`: (x0, y0, x1, y1) of the picture in grid units
    [0, 1]: (0, 0, 1, 1) unless the model pads the picture to its input shape. A grid point (u, v) lies at
    ((u - x0) / (x1 - x0), (v - y0) / (y1 - y0)) of the picture. `texts`: (left, top, right, bottom) in grid
    units of each line of text that the model's encoder has found; empty for encoders that find none.
    """

    weights: NDArray[np.float32]
    content: GridBox = (0.0, 0.0, 1.0, 1.0)
    texts: tuple[GridBox, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class AnswerRequest:
    """One question.

    Stage one has no patch; stage two brings the same picture and the patch cut from its original.
    """

    picture: Picture
    question: str
    patch: Picture | None = None
    max_new_tokens: int = 16


@dataclass(frozen=True, slots=True)
class NeutralRequest:
    """The wish for a picture's map under the neutral prompt: relative attention's denominator."""

    picture: Picture


Work: TypeAlias = AnswerRequest | NeutralRequest


@dataclass(slots=True, eq=False)
class Prepared:
    """Work that is ready for the device; an engine adds what it has prepared."""

    work: Work


@dataclass(frozen=True, slots=True, eq=False)
class AnswerResult:
    """`tokens` excludes the end-of-sequence token.

    `attention` belongs to stage one (None where a patch was given). `is_off_domain`: whether the model says
    that the question is none that it can answer; None from a model that cannot tell.
    """

    text: str
    tokens: tuple[TokenStats, ...]
    attention: AttentionMap | None
    prompt_tokens: int
    cached_tokens: int  # of the prompt tokens, those whose keys and values were already held
    completion_tokens: int
    prefill_ms: float
    generate_ms: float
    is_off_domain: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """What begun work has got from one call of the engine.

    `tokens`: the answer's next ones; their texts put together are the answer before it is trimmed. `outcome`:
    how the work has ended, None while it runs. `opening`: what an answer's prompt has shown, the attention
    above all, as a result without text and tokens; once, with or before the first token.
    """

    key: int
    tokens: tuple[TokenStats, ...] = ()
    outcome: AnswerResult | AttentionMap | EngineError | None = None
    opening: AnswerResult | None = None


class EngineError(Exception):
    """The model failed on this input or this device; the server answers 503 and goes on."""


class ModelLoadError(Exception):
    """The model cannot be served; the message says what to change.

    `may_pass`: whether the same start may succeed later, as where the hub does not answer.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class BrokenDeviceError(Exception):
    """The device will answer nothing more in this process; the server ends for its supervisor."""


class Engine(Protocol):
    """A loaded, warmed-up model.

    Calls block; the server makes them from the one thread that owns the device. Many answers run at a time:
    `prepare` each, `begin` some of them, then `step` until each has its outcome. Work may begin between
    steps. `answer` does the same for requests that are all there.
    """

    @property
    def info(self) -> EngineInfo: ...

    @property
    def held_bytes(self) -> int:
        """Of cached prefixes; may be read from any thread."""
        ...

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        """Greedy answers, one for each request, in order; one request's failure does not touch the others."""
        ...

    def neutral_attention(self, picture: Picture) -> AttentionMap:
        """The map for the neutral prompt (relative attention's denominator). Raises EngineError."""
        ...

    def prepare(self, work: Work) -> Prepared:
        """Do what needs no device: resize pictures, write and tokenise the prompt. For any thread.

        Raises EngineError.
        """
        ...

    def choose(self, waiting: Sequence[Prepared]) -> list[int]:
        """Return the index of the first and of those that can begin together with it."""
        ...

    def begin(self, batch: Mapping[int, Prepared]) -> list[Progress]:
        """Run the prompts of work that was chosen together. The keys are the caller's, new for each work.

        What fails has an EngineError as its outcome. Raises BrokenDeviceError.
        """
        ...

    def step(self) -> list[Progress]:
        """Decode one token of each answer that runs. Failures are as `begin`'s."""
        ...

    def drop(self, key: int) -> None:
        """Forget work that has begun; there will be no more of it. Unknown keys are ignored."""
        ...

    def close(self) -> None:
        """Release the device's memory; the engine is not used afterwards."""
        ...
