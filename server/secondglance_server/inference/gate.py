"""The gate: is the draft answer sure enough, judged from the statistics of its tokens.

All three metrics are always aggregated and reported; one of them is compared. The end-of-sequence token is
not among the tokens, so an answer may have none: it proves nothing, counts as doubtful and reports zeros.

The early gate judges a draft that is being made. Of some aggregates, no later token takes back the doubt.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Generic, TypeVar

from secondglance_protocol.wire import Aggregate, Confidence, GateSettings, Mode
from secondglance_server.engine.protocol import AnswerResult, EngineError, GateDefaults, TokenStats
from secondglance_server.inference.async_engine import Answered

T = TypeVar("T")

_FINAL_DOUBT: tuple[Aggregate, ...] = ("max", "first")  # above the threshold once, above it to the end

_AGGREGATES: Mapping[Aggregate, Callable[[Sequence[float]], float]] = {
    "max": max,
    "mean": fmean,
    "first": lambda values: values[0],
    "sum": math.fsum,
}


def resolve_gate(asked: GateSettings | None, default: GateDefaults) -> GateDefaults:
    """The gate of a request: the model's, with what the request changes.

    The model's doubt threshold stays, unless the request compares another number.
    """
    if asked is None:
        return default
    metric, aggregate = asked.metric or default.metric, asked.aggregate or default.aggregate
    is_same = (metric, aggregate) == (default.metric, default.aggregate)
    return GateDefaults(
        metric=metric,
        aggregate=aggregate,
        threshold=default.threshold if asked.threshold is None else asked.threshold,
        doubt_threshold=default.doubts_above if is_same else None,
    )


def judge(tokens: Sequence[TokenStats], gate: GateDefaults) -> Confidence:
    """The confidence of an answer. Raises EngineError if the model's statistics are not numbers."""
    if not all(math.isfinite(token.min_entropy + token.shannon + token.margin) for token in tokens):
        raise EngineError("a token's statistics are not finite")
    values = {
        "min_entropy": _aggregate([token.min_entropy for token in tokens], gate.aggregate),
        "shannon": _aggregate([token.shannon for token in tokens], gate.aggregate),
        "margin": _aggregate([token.margin for token in tokens], gate.aggregate),
    }
    return Confidence(
        metric=gate.metric,
        aggregate=gate.aggregate,
        value=values[gate.metric],
        threshold=gate.threshold,
        **values,
    )


def is_doubtful(confidence: Confidence, tokens: Sequence[TokenStats]) -> bool:
    """Whether a second glance is wanted: above the threshold, or nothing was said at all."""
    return not tokens or confidence.value > confidence.threshold


def is_unreliable(result: AnswerResult, confidence: Confidence, gate: GateDefaults) -> bool:
    """Whether an answer should not be relied on: above the doubt threshold, empty, or off-domain."""
    is_empty = not result.tokens or not result.text.strip()
    return is_empty or bool(result.is_off_domain) or confidence.value > gate.doubts_above


class EarlyGate(Generic[T]):
    """Begins a search at the first token that settles that a region is wanted, while the draft goes on.

    `search` is given the answer as far as it is then; its result waits in `found`.
    """

    def __init__(
        self, gate: GateDefaults, mode: Mode, search: Callable[[Answered], Coroutine[Any, Any, T]]
    ) -> None:
        self._gate = gate
        self._mode = mode
        self._search = search
        self._opening: Answered | None = None
        self._opened_at = 0.0
        self._tokens: list[TokenStats] = []
        self._searching: asyncio.Task[T] | None = None
        self.is_over = False  # the draft is whole

    def open(self, opening: Answered) -> None:
        """Take what the prompt has shown."""
        if self._opening is None:  # not that of an answer that was begun again
            self._opening, self._opened_at = opening, time.perf_counter()
            self._look()

    def add(self, token: TokenStats) -> None:
        """Take the draft's next token. Raises EngineError as `judge` does."""
        self._tokens.append(token)
        self._look()

    async def found(self) -> T | None:
        """Return what the search found, None if none was begun; once the draft is whole. Raises what the
        search raises."""
        self.is_over = True
        return None if self._searching is None else await self._searching

    def stop(self) -> None:
        """End a search whose result nobody wants."""
        if self._searching is not None and not self._searching.cancel() and not self._searching.cancelled():
            self._searching.exception()  # asyncio would complain about one that nobody looks at

    def _look(self) -> None:
        if self._searching is None and self._opening is not None and self._is_settled(self._opening.result):
            self._searching = asyncio.ensure_future(self._search(self.so_far()))

    def _is_settled(self, opening: AnswerResult) -> bool:
        if not self._tokens or self._mode == "answer_only":
            return False
        if self._mode == "always":
            return True
        if self._gate.aggregate not in _FINAL_DOUBT or opening.is_off_domain:
            return False
        return is_doubtful(judge(self._tokens, self._gate), self._tokens)

    def so_far(self) -> Answered:
        """Return the answer as far as it is; once the prompt has run."""
        opening = self._opening
        assert opening is not None
        result = replace(
            opening.result,
            text="".join(token.text for token in self._tokens).strip(),
            tokens=tuple(self._tokens),
            completion_tokens=len(self._tokens),
            generate_ms=1000 * (time.perf_counter() - self._opened_at),
        )
        return replace(opening, result=result)


def _aggregate(values: Sequence[float], aggregate: Aggregate) -> float:
    if not values:
        return 0.0
    return max(0.0, _AGGREGATES[aggregate](values))  # -log p of a sure token may come out at -1e-8
