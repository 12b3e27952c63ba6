"""The one thread that owns the engine, and the bounded queue in front of it.

Half-done work goes first: neutral maps and second stages before first stages, each in order of arrival.
Answers of one stage run in batches of what is waiting; an idle device never waits for company. Work whose
future was cancelled (the client left) or whose deadline has passed is dropped before it runs. Knows nothing
of HTTP or torch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from secondglance_server.engine.protocol import (
    AnswerRequest,
    AttentionMap,
    BrokenDeviceError,
    Engine,
    EngineError,
    Picture,
)
from secondglance_server.inference.async_engine import (
    Answered,
    OnToken,
    QueueClosed,
    QueueFull,
    Stage,
    TooLate,
)
from secondglance_server.inference.ticket import Ticket


@dataclass(slots=True, eq=False)
class _Answer:
    request: AnswerRequest
    future: Future[Answered]
    ticket: Ticket
    queued_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class _Neutral:
    picture: Picture
    future: Future[AttentionMap]


W = TypeVar("W", _Answer, _Neutral)
R = TypeVar("R")


class DeviceQueue:
    """Implements `AsyncEngine` for an `Engine`.

    Start it once with a function that loads the engine, await answers on the event loop, close it once.
    """

    def __init__(
        self,
        *,
        max_queue: int,
        max_batch: int = 8,
        max_wait_ms: float = 0.0,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_batch` is told, on the owner thread, how many answers run together."""
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._neutrals: deque[_Neutral] = deque()
        self._second: deque[_Answer] = deque()
        self._first: deque[_Answer] = deque()
        self._thread: threading.Thread | None = None
        self._is_open = False
        self._preparing = {1: 0, 2: 0}  # requests of each stage that will ask for an answer soon
        self._running: list[_Answer] | list[_Neutral] = []
        self._call_began: float | None = None
        self._death: str | None = None
        self._last_batch = 0  # requests in the batch before
        self._last_batch_s = 0.0
        self._engine: Engine | None = None

    def start(self, load: Callable[[], Engine]) -> Future[Engine]:
        """Load the engine on the owner thread; the future holds it, or why it could not be loaded."""
        loaded: Future[Engine] = Future()
        loaded.set_running_or_notify_cancel()  # from here on a waiter that gives up cannot cancel it
        self._is_open = True
        self._thread = threading.Thread(target=self._run, args=(load, loaded), name="device", daemon=True)
        self._thread.start()
        return loaded

    def close(self, timeout_s: float = 5.0) -> None:
        """Drop what waits, let the running call end, release the engine. Blocks for up to `timeout_s`."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def abandon(self) -> None:
        """Fail all work, what runs included: nothing will come of it. The thread is left alone."""
        self._cancel_waiting()
        for work in self._running:
            _fail(work.future, QueueClosed())

    @property
    def held_bytes(self) -> int:
        """Of cached prefixes; may be read from any thread."""
        return 0 if self._engine is None else self._engine.held_bytes

    @property
    def call_age_s(self) -> float:
        """How long the running call has been on the device; 0 if none is."""
        began = self._call_began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def death(self) -> str | None:
        """Return why the owner thread has ended without being told to, None while it lives."""
        return self._death

    @property
    def depth(self) -> int:
        """Answers that wait for the device, those that are being prepared included."""
        return self._n_queued + sum(self._preparing.values())

    def check_room(self, stage: Stage) -> None:
        """Raises QueueFull, so that a full server can refuse before it reads or decodes anything.

        The first stage has room while less than `max_queue` of both wait; the second, which a client
        holds its picture for, while less than that of its own do.
        """
        if self._waiting(stage) >= self._max_queue:
            self._shed_cancelled()
        if self._waiting(stage) >= self._max_queue:
            batches = self._waiting(stage) / self._max_batch
            raise QueueFull(retry_after_s=max(1.0, batches * self._last_batch_s))

    @contextmanager
    def preparing(self, stage: Stage) -> Iterator[None]:
        """Hold a place in the queue while the request's pictures are decoded. Raises QueueFull."""
        self.check_room(stage)
        self._preparing[stage] += 1
        try:
            yield
        finally:
            self._preparing[stage] -= 1

    async def answer(
        self, request: AnswerRequest, ticket: Ticket | None = None, on_token: OnToken | None = None
    ) -> Answered:
        """As `AsyncEngine.answer`; tokens come together, with the answer."""
        self.check_room(1 if request.patch is None else 2)
        work = _Answer(request, Future(), ticket or Ticket())
        work.ticket.queue(work.future)
        waiting = self._first if request.patch is None else self._second
        self._enqueue(waiting, work)
        answered = await asyncio.wrap_future(work.future)
        if on_token is not None:
            for token in answered.result.tokens:
                on_token(token)
        return answered

    async def neutral_attention(self, picture: Picture) -> AttentionMap:
        """Raises EngineError, QueueClosed. Never refused for room: its request was admitted before."""
        work = _Neutral(picture, Future())
        self._enqueue(self._neutrals, work)
        return await asyncio.wrap_future(work.future)

    @property
    def _n_queued(self) -> int:
        return len(self._first) + len(self._second)

    def _waiting(self, stage: Stage) -> int:
        return self.depth if stage == 1 else len(self._second) + self._preparing[2]

    def _enqueue(self, waiting: deque[W], work: W) -> None:
        with self._changed:
            if not self._is_open:
                raise QueueClosed
            waiting.append(work)
            self._changed.notify()

    def _shed_cancelled(self) -> None:
        with self._changed:
            for waiting in (self._first, self._second):
                for work in [work for work in waiting if work.future.cancelled()]:
                    waiting.remove(work)

    def _run(self, load: Callable[[], Engine], loaded: Future[Engine]) -> None:
        try:
            engine = load()
        except BaseException as exc:  # outermost boundary of the thread: the waiter learns of it
            self._is_open = False
            loaded.set_exception(exc)
            return
        self._engine = engine
        loaded.set_result(engine)
        try:
            while self._step(engine):
                pass
        except BrokenDeviceError as exc:  # said once, by the watchdog
            self._death = f"the device is broken: {exc}"
            self.abandon()
            return
        except BaseException:  # what is no failure of a request; threading reports it
            self._death = "the device's thread has ended"
            self.abandon()
            raise
        self._cancel_waiting()
        engine.close()

    def _step(self, engine: Engine) -> bool:
        """Wait for work and do one piece of it; False once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_work() or not self._is_open)
            if not self._is_open:
                return False
            neutral = self._neutrals.popleft() if self._neutrals else None
            batch = [] if neutral else self._take_batch()
        if neutral:
            with self._calling([neutral]):
                _run_neutral(engine, neutral)
        elif batch:
            self._on_batch(len(batch))
            with self._calling(batch) as began:
                _run_batch(engine, batch, began)
            self._last_batch, self._last_batch_s = len(batch), time.monotonic() - began
        return True

    @contextmanager
    def _calling(self, work: list[_Answer] | list[_Neutral]) -> Iterator[float]:
        self._running = work
        self._call_began = began = time.monotonic()
        yield began
        self._call_began = None
        self._running = []

    def _has_work(self) -> bool:
        return bool(self._neutrals or self._second or self._first)

    def _take_batch(self) -> list[_Answer]:
        """The next requests of one stage; called with the lock held."""
        if self._last_batch > 1:  # under load only: the batch before had company, more is on its way
            self._changed.wait_for(
                lambda: self._n_queued >= self._max_batch or not self._is_open, timeout=self._max_wait_s
            )
        waiting = self._second or self._first
        batch: list[_Answer] = []
        while waiting and len(batch) < self._max_batch:
            work = waiting.popleft()
            if not work.future.set_running_or_notify_cancel():
                continue
            if work.ticket.is_late:
                work.future.set_exception(TooLate())
            else:
                batch.append(work)
        self._last_batch = len(batch)
        return batch

    def _cancel_waiting(self) -> None:
        with self._changed:
            self._is_open = False
            futures: list[Future[Any]] = [work.future for work in (*self._second, *self._first)]
            futures += [work.future for work in self._neutrals]
            for waiting in (self._first, self._second, self._neutrals):
                waiting.clear()
        for future in futures:
            if future.set_running_or_notify_cancel():
                _fail(future, QueueClosed())


def _run_neutral(engine: Engine, work: _Neutral) -> None:
    if not work.future.set_running_or_notify_cancel():
        return
    try:
        attention = engine.neutral_attention(work.picture)
    except BrokenDeviceError:
        raise
    except Exception as exc:  # outermost boundary of the device thread
        _fail(work.future, _as_engine_error(exc))
    else:
        _fulfil(work.future, attention)


def _run_batch(engine: Engine, batch: list[_Answer], began: float) -> None:
    try:
        results = engine.answer([work.request for work in batch])
        if len(results) != len(batch):
            raise EngineError(f"{len(results)} results for {len(batch)} requests")
    except BrokenDeviceError:
        raise
    except Exception as exc:  # outermost boundary of the device thread
        results = [_as_engine_error(exc)] * len(batch)
    for work, result in zip(batch, results, strict=True):
        if isinstance(result, EngineError):
            _fail(work.future, result)
        else:
            _fulfil(work.future, Answered(result, queue_ms=1000 * (began - work.queued_at)))


def _fulfil(future: Future[R], result: R) -> None:
    with suppress(InvalidStateError):  # given up in the meantime
        future.set_result(result)


def _fail(future: Future[Any], exc: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(exc)


def _as_engine_error(exc: Exception) -> EngineError:
    if isinstance(exc, EngineError):
        return exc
    error = EngineError(f"{type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error
