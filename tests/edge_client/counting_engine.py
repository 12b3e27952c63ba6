"""A fake engine that counts how often each picture is asked about, and answers with the picture's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EngineError


class CountingEngine(FakeEngine):
    """First stages by the picture's id in `asked`, in turn in `order`; second stages in `looked_again`."""

    def __init__(self, script: FakeScript | None = None) -> None:
        super().__init__(script)
        self.asked: Counter[str] = Counter()
        self.order: list[str] = []
        self.looked_again: Counter[str] = Counter()

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        for request in requests:
            if request.patch is None:
                self.asked[request.picture.key] += 1
                self.order.append(request.picture.key)
            else:
                self.looked_again[request.picture.key] += 1
        results = zip(requests, super().answer(requests), strict=True)
        return [
            result if isinstance(result, EngineError) else replace(result, text=request.picture.key)
            for request, result in results
        ]
