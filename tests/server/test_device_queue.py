"""One thread owns the engine; half-done work is first; like work goes together, forsaken work never runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import (
    AnswerRequest,
    BrokenDeviceError,
    Engine,
    EngineError,
    Picture,
    Prepared,
    Progress,
    TokenStats,
    Work,
)
from secondglance_server.inference.async_engine import Answered, QueueClosed, QueueFull, TooLate
from secondglance_server.inference.device_queue import DeviceQueue
from secondglance_server.inference.ticket import Ticket
from tests.server.exchange import until

PICTURE = Picture("p", np.zeros((2, 2, 3), np.uint8))
ONE_TOKEN = FakeScript(draft="sign")  # an answer ends with the step after its beginning


def first(question: str) -> AnswerRequest:
    return AnswerRequest(PICTURE, question)


def second(question: str) -> AnswerRequest:
    return AnswerRequest(PICTURE, question, patch=PICTURE)


class Device:
    """A started queue over a fake engine that waits for `release` at each call while it is held."""

    def __init__(self, queue: DeviceQueue, engine: FakeEngine) -> None:
        self.queue = queue
        self.engine = engine
        self.release = threading.Event()

    async def hold(self) -> asyncio.Task[Answered]:
        """Occupy the device with a request of its own."""
        self.engine.before_call = self.release.wait
        task = self.ask(first("holding"))
        await until(lambda: len(self.engine.calls) == 1)
        return task

    def let_go(self) -> None:
        self.engine.before_call = None
        self.release.set()

    def ask(self, request: AnswerRequest) -> asyncio.Task[Answered]:
        return asyncio.create_task(self.queue.answer(request))

    async def wait_for_depth(self, depth: int) -> None:
        await until(lambda: self.queue.depth == depth)

    @property
    def served(self) -> list[tuple[str, ...]]:
        """Questions of each batch so far; ("neutral",) for a neutral map; without the holding one."""
        return [call.questions or (call.kind,) for call in self.engine.calls[1:]]


@contextlib.asynccontextmanager
async def running(max_queue: int = 64, max_batch: int = 1, **options: Any) -> AsyncIterator[Device]:
    engine = FakeEngine(ONE_TOKEN)
    queue = DeviceQueue(max_queue=max_queue, max_batch=max_batch, **options)
    await asyncio.wrap_future(queue.start(lambda: engine))
    device = Device(queue, engine)
    try:
        yield device
    finally:
        device.let_go()
        await asyncio.to_thread(queue.close)
        assert engine.is_closed


async def test_the_engine_is_loaded_called_and_closed_on_one_thread() -> None:
    threads: list[str] = []

    class Watched(FakeEngine):
        def close(self) -> None:
            threads.append(threading.current_thread().name)
            super().close()

    engine = Watched()
    engine.before_call = lambda: threads.append(threading.current_thread().name)

    def load() -> Engine:
        threads.append(threading.current_thread().name)
        return engine

    queue = DeviceQueue(max_queue=1)
    assert await asyncio.wrap_future(queue.start(load)) is engine
    await queue.answer(first("?"))
    await asyncio.to_thread(queue.close)
    assert threads == ["device"] * 3


async def test_half_done_work_goes_first() -> None:
    async with running() as device:
        tasks = [await device.hold()]
        for request in (first("1a"), first("1b"), second("2a"), second("2b")):
            tasks.append(device.ask(request))
            await device.wait_for_depth(len(tasks) - 1)
        neutral = asyncio.create_task(device.queue.neutral_attention(PICTURE))
        await until(lambda: len(device.queue._neutrals) == 1)
        device.let_go()
        await asyncio.gather(*tasks, neutral)
        assert device.served == [("neutral",), ("2a",), ("2b",), ("1a",), ("1b",)]


async def test_batches_are_of_one_stage_and_bounded() -> None:
    async with running(max_batch=2) as device:
        tasks = [await device.hold()]
        for request in (first("1a"), second("2a"), first("1b"), first("1c")):
            tasks.append(device.ask(request))
            await device.wait_for_depth(len(tasks) - 1)
        device.let_go()
        await asyncio.gather(*tasks)
        assert device.served == [("2a",), ("1a", "1b"), ("1c",)]


async def test_an_idle_device_does_not_wait_for_company() -> None:
    """With a wait of ten minutes, a lone request and the one after it are answered at once."""
    async with running(max_batch=8, max_wait_ms=600_000) as device:
        async with asyncio.timeout(5):
            await device.queue.answer(first("a"))
            await device.queue.answer(first("b"))
        assert [call.questions for call in device.engine.calls] == [("a",), ("b",)]


async def test_a_device_under_load_waits_for_a_full_batch() -> None:
    async with running(max_batch=2, max_wait_ms=600_000) as device:
        tasks = [await device.hold()]
        for name in "abc":
            tasks.append(device.ask(first(name)))
            await device.wait_for_depth(len(tasks) - 1)
        device.let_go()
        await asyncio.gather(*tasks[:3])
        tasks.append(device.ask(first("d")))
        await asyncio.gather(*tasks)
        assert device.served == [("a", "b"), ("c", "d")]


async def test_a_full_queue_refuses_and_recovers() -> None:
    async with running(max_queue=1) as device:
        holding = await device.hold()
        waiting = device.ask(first("waiting"))
        await device.wait_for_depth(1)
        with pytest.raises(QueueFull) as caught:
            await device.queue.answer(first("refused"))
        assert caught.value.retry_after_s >= 1
        device.let_go()
        await asyncio.gather(holding, waiting)
        await device.queue.answer(first("after"))
        assert device.served == [("waiting",), ("after",)]


async def test_work_whose_client_left_never_runs_and_makes_room() -> None:
    async with running(max_queue=1) as device:
        holding = await device.hold()
        left = device.ask(first("left"))
        await device.wait_for_depth(1)
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await left
        await asyncio.sleep(0)
        stays = device.ask(first("stays"))
        await asyncio.sleep(0)
        device.let_go()
        await asyncio.gather(holding, stays)
        assert device.served == [("stays",)]


async def test_one_failure_of_a_batch_does_not_touch_the_others() -> None:
    async with running(max_batch=3) as device:
        holding = await device.hold()
        device.engine.script = replace(ONE_TOKEN, fails=lambda request: request.question == "bad")
        tasks = [device.ask(first(name)) for name in ("good", "bad", "fine")]
        await device.wait_for_depth(3)
        device.let_go()
        results = await asyncio.gather(holding, *tasks, return_exceptions=True)
        assert [isinstance(result, Answered) for result in results] == [True, True, False, True]
        assert isinstance(results[2], EngineError)


async def test_an_engine_that_raises_is_survived() -> None:
    async with running() as device:

        def fail() -> None:
            raise RuntimeError("out of memory")

        device.engine.before_call = fail
        with pytest.raises(EngineError, match="out of memory"):
            await device.queue.answer(first("a"))
        with pytest.raises(EngineError):
            await device.queue.neutral_attention(PICTURE)
        device.engine.before_call = None
        assert (await device.queue.answer(first("b"))).result.text == "sign"


async def test_the_time_in_the_queue_is_told() -> None:
    async with running() as device:
        holding = await device.hold()
        waiting = device.ask(first("waiting"))
        await device.wait_for_depth(1)
        device.let_go()
        _, answered = await asyncio.gather(holding, waiting)
        assert answered.queue_ms > 0


async def test_closing_tells_those_who_wait() -> None:
    async with running() as device:
        holding = await device.hold()
        waiting = device.ask(first("waiting"))
        await device.wait_for_depth(1)
        closing = asyncio.create_task(asyncio.to_thread(device.queue.close))
        await until(lambda: not device.queue._is_open)
        device.let_go()
        await holding
        with pytest.raises(QueueClosed):
            await waiting
        await closing
        with pytest.raises(QueueClosed):
            await device.queue.answer(first("late"))


async def test_a_model_that_cannot_be_loaded_is_told() -> None:
    queue = DeviceQueue(max_queue=1)

    def load() -> Engine:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        await asyncio.wrap_future(queue.start(load))
    with pytest.raises(QueueClosed):
        await queue.answer(first("a"))


async def test_the_size_of_every_batch_is_told() -> None:
    sizes: list[int] = []
    async with running(max_batch=2, on_batch=sizes.append) as device:
        tasks = [await device.hold()]
        for name in "abc":
            tasks.append(device.ask(first(name)))
            await device.wait_for_depth(len(tasks) - 1)
        device.let_go()
        await asyncio.gather(*tasks)
    assert sizes == [1, 2, 1]


async def test_what_is_late_when_its_turn_comes_never_runs() -> None:
    async with running() as device:
        holding = await device.hold()
        late = asyncio.create_task(device.queue.answer(first("late"), Ticket(time.monotonic())))
        await device.wait_for_depth(1)
        device.let_go()
        await holding
        with pytest.raises(TooLate):
            await late
        assert device.served == []


async def test_a_ticket_can_be_dropped_until_the_device_begins() -> None:
    async with running() as device:
        running_one, waiting_one = Ticket(), Ticket()
        device.engine.before_call = device.release.wait
        begun = asyncio.create_task(device.queue.answer(first("begun"), running_one))
        await until(lambda: len(device.engine.calls) == 1)
        waiting = asyncio.create_task(device.queue.answer(first("waiting"), waiting_one))
        await device.wait_for_depth(1)
        assert not running_one.drop()
        assert waiting_one.drop()
        device.let_go()
        assert (await begun).result.text == "sign"
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(device.engine.calls) == 1
        assert not running_one.drop()


async def test_what_is_prepared_has_a_place_already() -> None:
    async with running(max_queue=1) as device:
        with device.queue.preparing(1):
            assert device.queue.depth == 1
            with pytest.raises(QueueFull):
                device.queue.check_room(1)
            device.queue.check_room(2)
            with device.queue.preparing(2), pytest.raises(QueueFull):
                device.queue.check_room(2)
        device.queue.check_room(1)
        assert device.queue.depth == 0


@pytest.mark.parametrize("kind", ["answer", "neutral"])
async def test_m2_a_broken_device_ends_the_queue_and_names_the_reason(kind: str) -> None:
    """M2: what runs and what waits is failed at once; the reason is there for the watchdog."""
    engine = FakeEngine()
    queue = DeviceQueue(max_queue=8)
    await asyncio.wrap_future(queue.start(lambda: engine))

    def break_down() -> None:
        raise BrokenDeviceError("device-side assert")

    engine.before_call = break_down
    work = queue.answer(first("a")) if kind == "answer" else queue.neutral_attention(PICTURE)
    with pytest.raises(QueueClosed):
        await work
    assert queue.death == "the device is broken: device-side assert"
    with pytest.raises(QueueClosed):
        await queue.answer(first("b"))


class Stepwise(FakeEngine):
    """Gives out a token for each permit, and notes the threads that it is called on."""

    def __init__(self, script: FakeScript | None = None) -> None:
        super().__init__(script or FakeScript(draft="one two three", answer="four"))
        self.permits = threading.Semaphore(0)
        self.threads: dict[str, str] = {}

    def prepare(self, work: Work) -> Prepared:
        self.threads["prepare"] = threading.current_thread().name
        return super().prepare(work)

    def step(self) -> list[Progress]:
        self.threads["step"] = threading.current_thread().name
        while not self.permits.acquire(timeout=0.01):
            if self.is_closed or self.forgotten:
                break
        return super().step()

    forgotten = False


@contextlib.asynccontextmanager
async def stepwise(engine: Stepwise, **options: Any) -> AsyncIterator[DeviceQueue]:
    queue = DeviceQueue(max_queue=8, **options)
    await asyncio.wrap_future(queue.start(lambda: engine))
    try:
        yield queue
    finally:
        engine.forgotten = True
        await asyncio.to_thread(queue.close)


async def test_tokens_come_on_the_event_loop_as_they_are_decoded() -> None:
    """The second token is not decoded before the first one was heard."""
    engine, heard = Stepwise(), asyncio.Queue[str]()
    main = threading.current_thread()
    async with stepwise(engine) as queue, asyncio.timeout(10):

        def on_token(token: TokenStats) -> None:
            assert threading.current_thread() is main
            heard.put_nowait(token.text)

        answer = asyncio.create_task(queue.answer(first("?"), on_token=on_token))
        for word in ("one", " two", " three"):
            assert not answer.done()
            engine.permits.release()
            assert await heard.get() == word
        assert [token.text for token in (await answer).result.tokens] == ["one", " two", " three"]
    assert engine.threads == {"prepare": "prepare_0", "step": "device"}


async def test_m5_a_short_answer_joins_a_long_one_and_is_done_before_it() -> None:
    engine = Stepwise(FakeScript(draft="a long answer of many words", answer="four"))
    async with stepwise(engine) as queue, asyncio.timeout(10):
        long = asyncio.create_task(queue.answer(first("long")))
        await until(lambda: bool(engine._running))
        short = asyncio.create_task(queue.answer(second("short")))
        await until(lambda: queue.depth == 1 and bool(queue._second))
        engine.permits.release()
        await until(lambda: len(engine._running) == 2)
        engine.permits.release()
        assert (await short).result.text == "four"
        assert not long.done()
        engine.permits.release(8)
        assert (await long).result.text == "a long answer of many words"


@pytest.mark.parametrize("is_heard", [True, False])
async def test_a_cancelled_answer_frees_its_place_between_two_steps(is_heard: bool) -> None:
    """A client that leaves a stream must not hold the device until its answer is complete."""
    engine, heard = Stepwise(), asyncio.Event()
    async with stepwise(engine, max_batch=1) as queue, asyncio.timeout(10):
        on_token = (lambda _: heard.set()) if is_heard else None
        leaving = asyncio.create_task(queue.answer(first("leaving"), on_token=on_token))
        engine.permits.release()
        await (heard.wait() if is_heard else until(lambda: bool(engine._running)))
        staying = asyncio.create_task(queue.answer(second("staying")))
        await until(lambda: queue.depth == 1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        engine.permits.release(2)
        assert (await staying).result.text == "four"
        assert not engine._running
        assert queue.call_age_s == 0


async def test_what_on_token_raises_ends_the_answer_and_frees_its_place() -> None:
    engine = Stepwise()
    async with stepwise(engine, max_batch=1) as queue, asyncio.timeout(10):

        def fail(token: TokenStats) -> None:
            raise ValueError(token.text)

        engine.permits.release()
        with pytest.raises(ValueError, match="one"):
            await queue.answer(first("?"), on_token=fail)
        engine.permits.release(2)
        assert (await queue.answer(second("?"))).result.text == "four"


async def test_a_step_that_fails_fails_what_runs_and_nothing_after_it() -> None:
    class Failing(FakeEngine):
        is_failing = True

        def step(self) -> list[Progress]:
            if self.is_failing:
                raise RuntimeError("odd")
            return super().step()

    engine = Failing()
    queue = DeviceQueue(max_queue=8)
    await asyncio.wrap_future(queue.start(lambda: engine))
    with pytest.raises(EngineError, match="odd"):
        await queue.answer(first("a"))
    engine.is_failing = False
    assert not engine._running
    assert (await queue.answer(first("b"))).result.text == "a sign"
    await asyncio.to_thread(queue.close)


async def test_closing_lets_answers_that_run_come_to_their_end() -> None:
    engine = Stepwise()
    async with stepwise(engine) as queue, asyncio.timeout(10):
        running_one = asyncio.create_task(queue.answer(first("?")))
        engine.permits.release()
        await until(lambda: bool(engine._running))
        closing = asyncio.create_task(asyncio.to_thread(queue.close))
        await until(lambda: not queue._is_open)
        engine.permits.release(3)
        assert (await running_one).result.text == "one two three"
        await closing
        assert engine.is_closed


async def test_work_that_cannot_be_prepared_is_that_requests_failure() -> None:
    class Picky(FakeEngine):
        def prepare(self, work: Work) -> Prepared:
            if isinstance(work, AnswerRequest) and work.question == "bad":
                raise EngineError("no such picture")
            return super().prepare(work)

    queue = DeviceQueue(max_queue=1)
    await asyncio.wrap_future(queue.start(Picky))
    with pytest.raises(EngineError, match="no such picture"):
        await queue.answer(first("bad"))
    assert queue.depth == 0
    assert (await queue.answer(first("good"))).result.text == "a sign"
    await asyncio.to_thread(queue.close)


async def test_under_load_what_waits_begins_together_with_what_is_being_prepared() -> None:
    """Preparing takes a while; prompts that run one by one cost more than prompts that run together."""

    class Slow(Stepwise):
        def __init__(self) -> None:
            super().__init__(FakeScript(draft="an answer of a good many words"))
            self.is_preparing, self.may_prepare = threading.Event(), threading.Event()

        def prepare(self, work: Work) -> Prepared:
            if isinstance(work, AnswerRequest) and work.question == "slow":
                self.is_preparing.set()
                self.may_prepare.wait(10)
            return super().prepare(work)

    engine = Slow()
    async with stepwise(engine, max_batch=4, max_wait_ms=600_000) as queue, asyncio.timeout(10):
        tasks = [asyncio.create_task(queue.answer(first("a")))]
        await until(lambda: len(engine._running) == 1)
        tasks.append(asyncio.create_task(queue.answer(first("b"))))
        await until(lambda: len(queue._first) == 1)
        engine.permits.release()
        await until(lambda: len(engine._running) == 2)
        tasks.append(asyncio.create_task(queue.answer(first("quick"))))
        await until(lambda: len(queue._first) == 1)
        tasks.append(asyncio.create_task(queue.answer(first("slow"))))
        await asyncio.to_thread(engine.is_preparing.wait)
        engine.permits.release(2)  # steps of those that run go on
        await until(lambda: engine._running[0].n_told == 3)
        assert len(engine._running) == 2
        engine.may_prepare.set()
        await until(lambda: len(queue._first) == 2)
        engine.permits.release()
        await until(lambda: len(engine._running) == 4)
        assert engine.calls[-1].questions == ("quick", "slow")
        engine.permits.release(20)
        await asyncio.gather(*tasks)


async def test_steps_go_on_while_the_only_other_request_is_being_prepared() -> None:
    """With company before, and nothing that waits yet."""
    engine = FakeEngine(FakeScript(draft="one two three"))
    may_prepare = threading.Event()
    prepare = engine.prepare

    def prepare_later(work: Work) -> Prepared:
        if isinstance(work, AnswerRequest) and work.question == "slow":
            may_prepare.wait(10)
        return prepare(work)

    engine.prepare = prepare_later  # type: ignore[method-assign]
    queue = DeviceQueue(max_queue=8, max_wait_ms=100)
    await asyncio.wrap_future(queue.start(lambda: engine))
    release = threading.Event()
    engine.before_call = release.wait
    tasks = [asyncio.create_task(queue.answer(first("a")))]
    await until(lambda: len(engine.calls) == 1)
    tasks += [asyncio.create_task(queue.answer(first(name))) for name in ("b", "c", "slow")]
    await until(lambda: len(queue._first) == 2)
    engine.before_call = None
    release.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks[:3])
        assert queue.depth == 1
        may_prepare.set()
        await tasks[3]
    await asyncio.to_thread(queue.close)
