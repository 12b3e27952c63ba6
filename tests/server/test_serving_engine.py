"""Places, deadlines, cancellation and death around an engine that schedules for itself; no vLLM is needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from secondglance_server.engine.fake import FAKE_INFO, FakeEngine
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    BrokenDeviceError,
    EngineError,
    EngineInfo,
    Picture,
    TokenStats,
)
from secondglance_server.inference.async_engine import QueueClosed, QueueFull, TooLate
from secondglance_server.inference.serving.engine import ServingEngine
from secondglance_server.inference.ticket import Ticket

RED = Picture("red", np.zeros((4, 4, 3), np.uint8))
FIRST = AnswerRequest(RED, "What is it?")
SECOND = AnswerRequest(RED, "What is it?", patch=RED)


@dataclass
class Core:
    """Answers when it is told to; a request that is cancelled is noted."""

    info: EngineInfo = FAKE_INFO
    last_sign_of_life: float = field(default_factory=time.monotonic)
    death: str | None = None
    held_bytes: int = 7
    failure: Exception | None = None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    urgent: list[bool] = field(default_factory=list)
    running: int = 0
    cancelled: int = 0
    is_closed: bool = False

    async def answer(
        self,
        request: AnswerRequest,
        *,
        on_token: Callable[[TokenStats], None],
        on_opening: Callable[[AnswerResult, float], None],
        is_urgent: bool,
    ) -> tuple[AnswerResult, float]:
        self.urgent.append(is_urgent)
        self.running += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if self.failure is not None:
            raise self.failure
        (result,) = FakeEngine().answer([request])
        assert isinstance(result, AnswerResult)
        on_opening(replace(result, text="", tokens=()), 3.0)
        for token in result.tokens:
            on_token(token)
        return result, 3.0

    async def neutral_attention(self, picture: Picture) -> AttentionMap:
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        return AttentionMap(np.ones((2, 2), np.float32))

    def close(self) -> None:
        self.is_closed = True


async def started(core: Core, *, max_queue: int = 4, max_running: int = 2) -> ServingEngine:
    engine = ServingEngine(max_queue=max_queue, max_running=max_running)

    async def load() -> Core:
        return core

    assert await asyncio.wrap_future(engine.start(load)) is core
    return engine


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_answer_comes_with_its_tokens_in_order() -> None:
    core = Core()
    core.go_on.set()
    engine = await started(core)
    came: list[TokenStats] = []
    answered = await engine.answer(FIRST, Ticket(), came.append)
    assert (tuple(came), answered.queue_ms) == (answered.result.tokens, 3.0)
    await engine.answer(SECOND)
    assert core.urgent == [False, True], "stage two goes first"


async def test_a_full_engine_refuses_the_first_stage_and_still_takes_the_second() -> None:
    """A client holds its picture for the second: first stages alone must not shut it out."""
    core = Core()
    engine = await started(core, max_queue=4, max_running=2)
    tasks = [asyncio.create_task(engine.answer(FIRST)) for _ in range(6)]
    await settle()
    assert engine.depth == 4
    with pytest.raises(QueueFull) as caught:
        engine.check_room(1)
    assert caught.value.retry_after_s >= 1
    with pytest.raises(QueueFull):
        await engine.answer(FIRST)
    engine.check_room(2)
    tasks += [asyncio.create_task(engine.answer(SECOND)) for _ in range(6)]
    await settle()
    with pytest.raises(QueueFull):
        engine.check_room(2)
    core.go_on.set()
    await asyncio.gather(*tasks)
    assert engine.depth == 0


async def test_pictures_that_are_being_decoded_hold_places() -> None:
    engine = await started(Core(), max_queue=2)
    with engine.preparing(1), engine.preparing(2):
        assert engine.depth == 2
        with pytest.raises(QueueFull), engine.preparing(1):
            pass
    assert engine.depth == 0


async def test_a_cancelled_request_leaves_the_core_though_it_has_begun() -> None:
    core = Core()
    engine = await started(core)
    task = asyncio.create_task(engine.answer(FIRST))
    await settle()
    assert core.running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert (core.cancelled, core.running, engine.depth, engine.call_age_s) == (1, 0, 0, 0.0)


async def test_a_request_past_its_deadline_is_not_begun() -> None:
    core = Core()
    engine = await started(core)
    with pytest.raises(TooLate):
        await engine.answer(FIRST, Ticket(deadline=time.monotonic() - 1))
    assert core.urgent == []


async def test_one_requests_failure_is_its_own() -> None:
    core = Core(failure=EngineError("bad picture"))
    core.go_on.set()
    engine = await started(core)
    with pytest.raises(EngineError, match="bad picture"):
        await engine.answer(FIRST)
    with pytest.raises(EngineError):
        await engine.neutral_attention(RED)
    assert engine.death is None


@pytest.mark.parametrize("by", ["a request", "the core"])
async def test_a_dead_core_is_told_to_the_watchdog(by: str) -> None:
    core = Core(failure=BrokenDeviceError("vLLM's engine has died")) if by == "a request" else Core()
    core.go_on.set()
    engine = await started(core)
    if by == "a request":
        with pytest.raises(QueueClosed):
            await engine.answer(FIRST)
    else:
        core.death = "vLLM's engine has died"
    assert engine.death == "vLLM's engine has died"


async def test_a_core_without_a_sign_of_life_ages_only_while_it_has_work() -> None:
    core = Core(last_sign_of_life=time.monotonic() - 100)
    engine = await started(core)
    assert engine.call_age_s == 0
    task = asyncio.create_task(engine.neutral_attention(RED))
    await settle()
    assert 0 <= engine.call_age_s < 50, "an idle core's silence does not count"
    await asyncio.sleep(0.02)
    assert engine.call_age_s >= 0.02
    core.last_sign_of_life = time.monotonic()
    assert engine.call_age_s < 0.02
    core.go_on.set()
    await task
    assert engine.call_age_s == 0


async def test_an_abandoned_engine_fails_what_runs_and_takes_nothing_new() -> None:
    core = Core()
    engine = await started(core)
    tasks = [asyncio.create_task(engine.answer(FIRST)), asyncio.create_task(engine.neutral_attention(RED))]
    await settle()
    engine.abandon()
    for task in tasks:
        with pytest.raises(QueueClosed):
            await task
    with pytest.raises(QueueClosed):
        await engine.answer(FIRST)


async def test_closing_releases_the_core_and_is_no_death() -> None:
    core = Core()
    engine = await started(core)
    assert engine.held_bytes == 7
    await asyncio.to_thread(engine.close)
    core.death = "vLLM's engine has died"  # as it says once it was shut down
    assert (core.is_closed, engine.death) == (True, None)
    with pytest.raises(QueueClosed):
        await engine.answer(FIRST)


async def test_a_core_that_cannot_be_loaded_says_why() -> None:
    engine = ServingEngine(max_queue=1, max_running=1)

    async def load() -> Core:
        raise ValueError("model_type 'x' was not tested on vLLM")

    with pytest.raises(ValueError, match="not tested"):
        await asyncio.wrap_future(engine.start(load))
    with pytest.raises(QueueClosed):
        await engine.answer(FIRST)
