"""What `ask` returns: the answer, how sure it is, where the model looked, and its cost in bytes and time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from secondglance.doubt import is_doubtful
from secondglance_protocol.wire import (
    Confidence,
    InferenceResponse,
    RelevanceReport,
    Roi,
    TimingMs,
    TokenReport,
    Usage,
)


@dataclass(frozen=True, slots=True)
class StageReceipt:
    """Bytes, milliseconds and requests of one stage.

    `elapsed_ms` runs from preparing the picture to the reply; `requests` includes `retries`.
    """

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    elapsed_ms: float = 0.0
    requests: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a conversation cost: everything HTTP put on the socket, both ways, and the time.

    `setup` is asking the server what it takes. `stage2` is the first look at a region, `further_looks` has
    those after it.

    `original_bytes` is the encoded original's size, None for a picture that came decoded. A transport of the
    caller's own counts nothing, so its byte counts are 0.
    """

    setup: StageReceipt
    stage1: StageReceipt
    stage2: StageReceipt | None
    original_bytes: int | None
    further_looks: tuple[StageReceipt, ...] = ()

    @property
    def stages(self) -> tuple[StageReceipt, ...]:
        """The stages that took place, setup first; stage two once for each look."""
        named = (self.setup, self.stage1, self.stage2, *self.further_looks)
        return tuple(stage for stage in named if stage is not None)

    @property
    def uplink_bytes(self) -> int:
        """Bytes sent, heads and bodies, of all stages."""
        return sum(stage.uplink_bytes for stage in self.stages)

    @property
    def downlink_bytes(self) -> int:
        """Bytes received, heads and bodies, of all stages."""
        return sum(stage.downlink_bytes for stage in self.stages)

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds of all stages."""
        return sum(stage.elapsed_ms for stage in self.stages)

    @property
    def requests(self) -> int:
        """Requests of all stages, retries included."""
        return sum(stage.requests for stage in self.stages)

    @property
    def retries(self) -> int:
        """Requests that repeated a failed one."""
        return sum(stage.retries for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return totals and stages, ready for JSON; `further_looks` where there were any."""
        stages = asdict(self)
        if not self.further_looks:
            del stages["further_looks"]
        return {
            "uplink_bytes": self.uplink_bytes,
            "downlink_bytes": self.downlink_bytes,
            "elapsed_ms": round(self.elapsed_ms, 3),
            "requests": self.requests,
            "retries": self.retries,
            **stages,
        }


@dataclass(frozen=True, slots=True)
class Look:
    """One region that was sent, and the server's reply to it, which has the surest answer so far."""

    roi: Roi
    reply: InferenceResponse


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer, how sure it is and what it cost: the server's replies of both stages behind one face.

    `second` is the reply to the last region that was sent, `looks` has all. `degraded` says why stage two,
    or a further look, gave no answer, None if nothing went wrong.

    `notes` are what a caller should know about picture and answer: that only the first frame was looked at,
    that the model is not sure.
    `trace_id` (W3C Trace Context) names this conversation in the server's log and spans; without tracing,
    its first stage. Empty if the server names none.
    """

    first: InferenceResponse
    second: InferenceResponse | None
    receipt: Receipt
    degraded: str | None = None
    notes: tuple[str, ...] = ()
    trace_id: str = ""
    looks: tuple[Look, ...] = ()

    @property
    def final(self) -> InferenceResponse:
        """The server's reply of the last stage that answered."""
        return self.second or self.first

    @property
    def answer(self) -> str:
        """The answer of the last stage that answered; after several looks the surest one."""
        return self.final.answer

    @property
    def is_answered(self) -> bool:
        """Whether the answer holds any text; where it holds none, `confidence` says nothing."""
        return bool(self.answer.strip())

    @property
    def doubtful(self) -> bool:
        """Whether the answer should not be relied on: too uncertain, empty, or not the model's domain."""
        return is_doubtful(self.final)

    @property
    def reason(self) -> str | None:
        """Why a wanted second stage was not asked for, or `empty_answer`: a name."""
        return self.final.reason

    @property
    def off_domain(self) -> bool | None:
        """Whether the model cannot answer this kind of question; None from a model that cannot tell."""
        return self.final.off_domain

    @property
    def stage(self) -> Literal[1, 2]:
        """Which stage the answer is from."""
        return self.final.stage

    @property
    def confidence(self) -> Confidence:
        """How sure the answer is, in nats (the margin has no unit); higher means less certain."""
        return self.final.confidence

    @property
    def surest(self) -> Look | None:
        """The look that the answer is from; None where no region was looked at."""
        surest = self.looks[0] if self.looks else None
        for before, look in pairwise(self.looks):
            if (look.reply.answer, look.reply.confidence) != (before.reply.answer, before.reply.confidence):
                surest = look  # it made a surer answer: the server keeps the earlier one else
        return surest

    @property
    def draft_answer(self) -> str:
        """Stage one's answer, also where stage two gave another."""
        return self.first.answer

    @property
    def draft_confidence(self) -> Confidence:
        """How sure stage one's answer is, in the same units as `confidence`."""
        return self.first.confidence

    @property
    def roi(self) -> Roi | None:
        """The region that the server asked for, None where it asked for none; of several that of the answer.

        `box` is in [0, 1] of the upright original, `pixels` in its pixels, half-open.
        """
        return self.first.roi if self.surest is None else self.surest.roi

    @property
    def id(self) -> str:
        """The server's name of this inference."""
        return self.first.id

    @property
    def model(self) -> str:
        """The name of the model that answered."""
        return self.final.model

    @property
    def usage(self) -> Usage:
        """Tokens and received bytes of the last stage, as the server counts them."""
        return self.final.usage

    @property
    def timing_ms(self) -> TimingMs:
        """Milliseconds of the last stage's phases on the server."""
        return self.final.timing_ms

    @property
    def tokens(self) -> tuple[TokenReport, ...] | None:
        """The answer's tokens with their statistics in nats, if `include` has "tokens"."""
        return self.final.tokens

    @property
    def relevance(self) -> RelevanceReport | None:
        """The map behind the RoI, if `include` has "relevance" and a region was looked for."""
        return self.first.relevance

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON; None where there is nothing to say."""
        values: dict[str, Any] = {
            "answer": self.answer,
            "stage": self.stage,
            "doubtful": self.doubtful,
            "reason": self.reason,
            "off_domain": self.off_domain,
            "degraded": self.degraded,
            "notes": list(self.notes),
            "confidence": self.confidence.model_dump(mode="json"),
            "draft_answer": self.draft_answer,
            "draft_confidence": self.draft_confidence.model_dump(mode="json"),
            "roi": self.roi.model_dump(mode="json") if self.roi else None,
            "id": self.id,
            "trace_id": self.trace_id,
            "model": self.model,
            "usage": self.usage.model_dump(mode="json"),
            "timing_ms": self.timing_ms.model_dump(mode="json"),
            "receipt": self.receipt.to_dict(),
        }
        if len(self.looks) > 1:
            values["looks"] = [look.roi.model_dump(mode="json") for look in self.looks]
        if self.tokens is not None:
            values["tokens"] = [token.model_dump(mode="json") for token in self.tokens]
        if self.relevance is not None:
            values["relevance"] = self.relevance.model_dump(mode="json")
        return values
