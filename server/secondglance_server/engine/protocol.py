"""What the HTTP server asks of a model: the seam between `server` and torch.

An engine turns (image, question) into (answer, per-token statistics, attention on the image grid). It knows
nothing of HTTP, sessions, gates or boxes. Importing this module loads numpy and nothing heavier; torch lives
in the engines.

Not covered: scheduling. One thread owns the engine and calls it; engines need not be thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from secondglance_protocol.wire import Aggregate, Metric


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
    ((u - x0) / (x1 - x0), (v - y0) / (y1 - y0)) of the picture.
    """

    weights: NDArray[np.float32]
    content: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class AnswerRequest:
    """One question.

    Stage one has no patch; stage two brings the same picture and the patch cut from its original.
    """

    picture: Picture
    question: str
    patch: Picture | None = None
    max_new_tokens: int = 16


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


class EngineError(Exception):
    """The model failed on this input or this device; the server answers 503 and goes on."""


class BrokenDeviceError(Exception):
    """The device will answer nothing more in this process; the server ends for its supervisor."""


class Engine(Protocol):
    """A loaded, warmed-up model.

    Calls block; the server makes them from the one thread that owns the device.
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

    def close(self) -> None:
        """Release the device's memory; the engine is not used afterwards."""
        ...
