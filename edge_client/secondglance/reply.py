"""What `ask` returns: the answer, how sure it is, where the model looked, and its cost in bytes and time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

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
    """`elapsed_ms` runs from preparing the picture to the reply; `requests` includes `retries`."""

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    elapsed_ms: float = 0.0
    requests: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything HTTP put on the socket, both ways; `setup` is asking the server what it takes.

    `original_bytes` is the encoded original's size, None for a picture that came decoded. A transport of the
    caller's own counts nothing, so its byte counts are 0.
    """

    setup: StageReceipt
    stage1: StageReceipt
    stage2: StageReceipt | None
    original_bytes: int | None

    @property
    def stages(self) -> tuple[StageReceipt, ...]:
        """The stages that took place, setup first."""
        return tuple(stage for stage in (self.setup, self.stage1, self.stage2) if stage is not None)

    @property
    def uplink_bytes(self) -> int:
        return sum(stage.uplink_bytes for stage in self.stages)

    @property
    def downlink_bytes(self) -> int:
        return sum(stage.downlink_bytes for stage in self.stages)

    @property
    def elapsed_ms(self) -> float:
        return sum(stage.elapsed_ms for stage in self.stages)

    @property
    def requests(self) -> int:
        return sum(stage.requests for stage in self.stages)

    @property
    def retries(self) -> int:
        return sum(stage.retries for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Totals and stages, ready for JSON."""
        return {
            "uplink_bytes": self.uplink_bytes,
            "downlink_bytes": self.downlink_bytes,
            "elapsed_ms": round(self.elapsed_ms, 3),
            "requests": self.requests,
            "retries": self.retries,
            **asdict(self),
        }


@dataclass(frozen=True, slots=True)
class Reply:
    """The server's replies of both stages behind one face; `degraded` says why stage two gave no answer.

    `notes` are what a caller should know about the picture: that only its first frame was looked at.
    `trace_id` (W3C Trace Context) names this conversation in the server's log and spans.
    """

    first: InferenceResponse
    second: InferenceResponse | None
    receipt: Receipt
    degraded: str | None = None
    notes: tuple[str, ...] = ()
    trace_id: str = ""

    @property
    def final(self) -> InferenceResponse:
        return self.second or self.first

    @property
    def answer(self) -> str:
        return self.final.answer

    @property
    def is_answered(self) -> bool:
        """Whether the answer holds any text; where it holds none, `confidence` says nothing."""
        return bool(self.answer.strip())

    @property
    def stage(self) -> Literal[1, 2]:
        return self.final.stage

    @property
    def confidence(self) -> Confidence:
        """Of the answer; higher means less certain."""
        return self.final.confidence

    @property
    def draft_answer(self) -> str:
        """Stage one's answer, also where stage two gave another."""
        return self.first.answer

    @property
    def draft_confidence(self) -> Confidence:
        return self.first.confidence

    @property
    def roi(self) -> Roi | None:
        """The region that the server asked for, None where it asked for none."""
        return self.first.roi

    @property
    def id(self) -> str:
        return self.first.id

    @property
    def model(self) -> str:
        return self.final.model

    @property
    def usage(self) -> Usage:
        return self.final.usage

    @property
    def timing_ms(self) -> TimingMs:
        return self.final.timing_ms

    @property
    def tokens(self) -> tuple[TokenReport, ...] | None:
        """Of the answer, if `include` has "tokens"."""
        return self.final.tokens

    @property
    def relevance(self) -> RelevanceReport | None:
        """The map behind the RoI, if `include` has "relevance" and a region was looked for."""
        return self.first.relevance

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON; None where there is nothing to say."""
        values: dict[str, Any] = {
            "answer": self.answer,
            "stage": self.stage,
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
        if self.tokens is not None:
            values["tokens"] = [token.model_dump(mode="json") for token in self.tokens]
        if self.relevance is not None:
            values["relevance"] = self.relevance.model_dump(mode="json")
        return values
