"""A fake engine that doubts each word of a draft as much as a test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EngineError, TokenStats

WORDS = "one two three four five"
DOUBT = (0.01, 0.01, 2.0, 0.01, 0.01)  # nats, of the five words; the gate's threshold is 0.5


class Doubting(FakeEngine):
    """Doubts each word of a draft as much as `entropies` say."""

    def __init__(self, entropies: Sequence[float] = DOUBT, **script: Any) -> None:
        super().__init__(FakeScript(**{"draft": WORDS, **script}))
        self.entropies = entropies

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        results = super().answer(requests)
        return [
            result
            if isinstance(result, EngineError) or request.patch is not None
            else replace(result, tokens=tuple(map(doubted, result.tokens, self.entropies)))
            for request, result in zip(requests, results, strict=True)
        ]


def doubted(token: TokenStats, entropy: float) -> TokenStats:
    return replace(token, min_entropy=entropy, shannon=entropy * 1.5)
