"""What `ask` returns: the answer, how sure it is, where the model looked, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from secondglance.receipt import Receipt
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
