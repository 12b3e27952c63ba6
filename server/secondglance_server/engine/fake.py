"""An engine without a model: instant, seeded and scriptable, for tests of this server and of its clients.

Its answers come from a `FakeScript`, its attention has one bright spot where the script says. It never
looks at pixels.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    EncoderBudget,
    EngineError,
    EngineInfo,
    NeutralRequest,
    Picture,
    Prepared,
    Progress,
    TokenStats,
    Work,
)

FAKE_INFO = EngineInfo(
    name="fake",
    family="fake",
    device="none",
    dtype="none",
    image=EncoderBudget(max_width=336, max_height=336),
    patch=EncoderBudget(max_width=336, max_height=336),
    max_new_tokens=64,
)


@dataclass(frozen=True, slots=True)
class FakeScript:
    """What the engine says and does. Entropies in nats; `peak` is (x, y) in [0, 1] of the picture;
    `is_off_domain` as in `AnswerResult`.

    `delay_s`: of each call, before anything is said; `token_delay_s`: of each token, for all that runs.
    `breaks`: how each call ends instead of answering: by a bug, without memory, never (until `close`), or by
    taking its thread with it.
    """

    draft: str = "a sign"
    answer: str = "42"
    draft_entropy_nats: float = 2.0
    answer_entropy_nats: float = 0.01
    peak: tuple[float, float] = (0.5, 0.5)
    content: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    delay_s: float = 0.0
    token_delay_s: float = 0.0
    fails: Callable[[AnswerRequest], bool] = lambda _: False
    neutral_fails: bool = False
    is_off_domain: bool | None = None
    breaks: Literal["never", "error", "memory", "hang", "death"] = "never"


@dataclass(slots=True, eq=False)
class _Running:
    """An answer of which `n_told` tokens have been told."""

    result: AnswerResult
    n_told: int = 0


@dataclass(frozen=True, slots=True)
class FakeCall:
    """One call that reached the engine; `questions` of one batch, none for the neutral prompt."""

    kind: Literal["answer", "neutral"]
    stage: Literal[1, 2]
    questions: tuple[str, ...] = ()


class FakeEngine:
    """Follows `script`, which may be replaced between calls; `calls` tells what was asked of it.

    `before_call`, if set, runs on the owner thread at the start of every call: block in it to hold the
    device.
    """

    def __init__(
        self,
        script: FakeScript | None = None,
        *,
        info: EngineInfo = FAKE_INFO,
        grid: tuple[int, int] = (24, 24),
        seed: int = 0,
    ) -> None:
        self.script = script or FakeScript()
        self.calls: list[FakeCall] = []
        self.before_call: Callable[[], object] | None = None
        self.is_closed = False
        self.held_bytes = 0
        self._info = info
        self._grid = grid
        self._random = random.Random(seed)
        self._closing = threading.Event()
        self._running: dict[int, _Running] = {}

    @property
    def info(self) -> EngineInfo:
        return self._info

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        stage: Literal[1, 2] = 1 if requests[0].patch is None else 2
        self._begin(FakeCall("answer", stage, tuple(request.question for request in requests)))
        return [self._answer_one(request) for request in requests]

    def neutral_attention(self, picture: Picture) -> AttentionMap:
        self._begin(FakeCall("neutral", 1))
        if self.script.neutral_fails:
            raise EngineError("scripted failure")
        rows, cols = self._grid
        return AttentionMap(np.ones((rows, cols), np.float32), self.script.content)

    def prepare(self, work: Work) -> Prepared:
        return Prepared(work)

    def choose(self, waiting: Sequence[Prepared]) -> list[int]:
        """Answers of one stage; neutral prompts one by one."""
        if not waiting or isinstance(waiting[0].work, NeutralRequest):
            return [0] if waiting else []
        is_second = waiting[0].work.patch is not None
        works = [prepared.work for prepared in waiting]
        alike = [isinstance(w, AnswerRequest) and (w.patch is not None) == is_second for w in works]
        return [index for index, is_alike in enumerate(alike) if is_alike]

    def begin(self, batch: Mapping[int, Prepared]) -> list[Progress]:
        """Make the answers; their tokens come one a step."""
        progress: list[Progress] = []
        requests: dict[int, AnswerRequest] = {}
        for key, prepared in batch.items():
            if isinstance(prepared.work, AnswerRequest):
                requests[key] = prepared.work
            else:
                progress.append(Progress(key, outcome=self.neutral_attention(prepared.work.picture)))
        results = self.answer(list(requests.values())) if requests else []
        for key, result in zip(requests, results, strict=True):
            if isinstance(result, EngineError):
                progress.append(Progress(key, outcome=result))
            else:
                self._running[key] = _Running(result)
        return progress

    def step(self) -> list[Progress]:
        self._closing.wait(self.script.token_delay_s)
        return [self._tell(key, running) for key, running in list(self._running.items())]

    def drop(self, key: int) -> None:
        self._running.pop(key, None)

    def close(self) -> None:
        self.is_closed = True
        self._closing.set()

    def _tell(self, key: int, running: _Running) -> Progress:
        result, told = running.result, running.n_told
        running.n_told += 1
        is_done = running.n_told >= len(result.tokens)
        if is_done:
            self.drop(key)
        opening = None if told else replace(result, text="", tokens=(), completion_tokens=0)
        return Progress(key, result.tokens[told : told + 1], result if is_done else None, opening)

    def _begin(self, call: FakeCall) -> None:
        self.calls.append(call)
        if self.before_call is not None:
            self.before_call()
        _break(self.script.breaks, self._closing)
        self._closing.wait(self.script.delay_s)

    def _answer_one(self, request: AnswerRequest) -> AnswerResult | EngineError:
        script = self.script
        if script.fails(request):
            return EngineError("scripted failure")
        text = script.draft if request.patch is None else script.answer
        entropy = script.draft_entropy_nats if request.patch is None else script.answer_entropy_nats
        tokens = tuple(
            TokenStats(
                text=f" {word}" if index else word,  # texts put together are the answer
                min_entropy=entropy,
                shannon=entropy * 1.5,
                margin=1 - np.exp(-entropy),
            )
            for index, word in enumerate(text.split()[: request.max_new_tokens])
        )
        prompt_tokens = self._grid[0] * self._grid[1] + len(request.question.split())
        return AnswerResult(
            text=text,
            tokens=tokens,
            attention=self._spot() if request.patch is None else None,
            prompt_tokens=prompt_tokens,
            cached_tokens=0 if request.patch is None else self._grid[0] * self._grid[1],
            completion_tokens=len(tokens) + 1,
            prefill_ms=self._random.uniform(0.1, 0.2),
            generate_ms=self._random.uniform(0.1, 0.2),
            is_off_domain=script.is_off_domain,
        )

    def _spot(self) -> AttentionMap:
        """A bright 3 x 3 block around the peak on a dim ground."""
        rows, cols = self._grid
        x0, y0, x1, y1 = self.script.content
        col = min(int((x0 + self.script.peak[0] * (x1 - x0)) * cols), cols - 1)
        row = min(int((y0 + self.script.peak[1] * (y1 - y0)) * rows), rows - 1)
        weights = np.full((rows, cols), 0.01, np.float32)
        weights[max(0, row - 1) : row + 2, max(0, col - 1) : col + 2] = 1.0
        return AttentionMap(weights, self.script.content)


def _break(how: str, closing: threading.Event) -> None:
    if how == "error":
        raise RuntimeError("scripted bug")
    if how == "memory":
        raise MemoryError
    if how == "hang":
        closing.wait()
    if how == "death":
        raise SystemExit("scripted death")
