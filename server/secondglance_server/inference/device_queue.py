"""The one thread that owns the engine, and the bounded queue in front of it.

Half-done work goes first: neutral maps and second stages before first stages, each in order of arrival. What
begins joins the answers that run, up to `max_batch` of them; between two steps of theirs some of the waiting
work may begin. Every token and every answer is handed over when it is there. What needs no device is
prepared on a thread of its own. An idle device never waits for company. Work whose future was cancelled (the
client left) or whose deadline has passed is dropped before it begins; of an answer whose caller was
cancelled, the rest is dropped. Knows nothing of HTTP or torch.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    BrokenDeviceError,
    Engine,
    EngineError,
    NeutralRequest,
    Picture,
    Prepared,
    Progress,
    TokenStats,
    Work,
)
from secondglance_server.inference.async_engine import (
    Answered,
    OnOpening,
    OnToken,
    QueueClosed,
    QueueFull,
    Stage,
    TooLate,
)
from secondglance_server.inference.ticket import Ticket

_News: TypeAlias = TokenStats | Answered
"""A token, or what the answer's prompt has shown."""


@dataclass(slots=True, eq=False)
class _Job:
    """Work on its way through the queue. `tell`: called on the owner thread with what comes of an answer."""

    prepared: Prepared
    future: Future[Any]  # Answered or AttentionMap
    ticket: Ticket
    tell: Callable[[_News], None] | None = None
    is_forsaken: bool = False  # begun, but its caller was cancelled
    queued_at: float = field(default_factory=time.monotonic)
    began_at: float = 0.0


_PATIENCE = 10  # what is being prepared is waited for so many times as long as what may come


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
        """`on_batch` is told, on the owner thread, how many answers run together whenever some begin."""
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._max_wait_s = max_wait_ms / 1000
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._neutrals: deque[_Job] = deque()
        self._second: deque[_Job] = deque()
        self._first: deque[_Job] = deque()
        self._thread: threading.Thread | None = None
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._is_open = False
        self._preparing = {1: 0, 2: 0}  # requests of each stage that will ask for an answer soon
        self._keys = itertools.count()
        self._running: dict[int, _Job] = {}
        self._call_began: float | None = None
        self._death: str | None = None
        self._had_company = False  # whether several answers ran together the last time
        self._last_answer_s = 0.0
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
        """Drop what waits, let running answers end, release the engine. Blocks for up to `timeout_s`."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        self._preparer.shutdown(wait=False)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def abandon(self) -> None:
        """Fail all work, what runs included: nothing will come of it. The thread is left alone."""
        self._cancel_waiting()
        for job in list(self._running.values()):
            _fail(job.future, QueueClosed())

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
            raise QueueFull(retry_after_s=max(1.0, batches * self._last_answer_s))

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
        self,
        request: AnswerRequest,
        ticket: Ticket | None = None,
        on_token: OnToken | None = None,
        on_opening: OnOpening | None = None,
    ) -> Answered:
        """As `AsyncEngine.answer`. Cancelling the call drops its answer, also one that has begun."""
        stage: Stage = 1 if request.patch is None else 2
        waiting = self._first if stage == 1 else self._second
        answer: Future[Answered] = Future()
        ticket = ticket or Ticket()
        ticket.queue(answer)
        arrivals = _Arrivals(answer) if on_token or on_opening else None
        with self.preparing(stage):
            prepared = await self._prepare(request)
        job = _Job(prepared, answer, ticket, arrivals.tell if arrivals else None)
        self._enqueue(waiting, job)
        try:
            if arrivals is not None:
                async for news in arrivals:
                    _pass_on(news, on_token, on_opening)
            return await asyncio.wrap_future(answer)
        except BaseException:  # above all a cancelled call; after an answer that failed it changes nothing
            job.is_forsaken = not answer.cancel()
            raise

    async def neutral_attention(self, picture: Picture) -> AttentionMap:
        """Raises EngineError, QueueClosed. Never refused for room: its request was admitted before."""
        attention: Future[AttentionMap] = Future()
        prepared = await self._prepare(NeutralRequest(picture))
        self._enqueue(self._neutrals, _Job(prepared, attention, Ticket()))
        return await asyncio.wrap_future(attention)

    async def _prepare(self, work: Work) -> Prepared:
        """Do what needs no device, on a thread of its own. Raises EngineError, QueueClosed."""
        if self._engine is None or not self._is_open:
            raise QueueClosed
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._preparer, self._engine.prepare, work)
        except RuntimeError:
            if not self._is_open:  # it was closed in between and takes nothing more
                raise QueueClosed from None
            raise

    @property
    def _n_queued(self) -> int:
        return len(self._first) + len(self._second)

    def _waiting(self, stage: Stage) -> int:
        return self.depth if stage == 1 else len(self._second) + self._preparing[2]

    def _enqueue(self, waiting: deque[_Job], job: _Job) -> None:
        with self._changed:
            if not self._is_open:
                raise QueueClosed
            waiting.append(job)
            self._changed.notify()

    def _shed_cancelled(self) -> None:
        with self._changed:
            for waiting in (self._first, self._second):
                for job in [job for job in waiting if job.future.cancelled()]:
                    waiting.remove(job)

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
            while self._turn(engine):
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

    def _turn(self, engine: Engine) -> bool:
        """Wait for work, begin some of what waits, take a step; False once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._running or self._has_work() or not self._is_open)
            if not self._is_open and not self._running:
                return False
            batch = self._take_batch(engine) if self._is_open else {}
        if batch:
            self._running |= batch
            self._tell_size(batch)
            prepared = {key: job.prepared for key, job in batch.items()}
            self._call(engine, batch, lambda: engine.begin(prepared))
        for key in [key for key, job in self._running.items() if job.is_forsaken]:
            engine.drop(key)
            _fail(self._running.pop(key).future, QueueClosed())
        if self._running:
            self._call(engine, self._running, engine.step)
        return True

    def _tell_size(self, batch: dict[int, _Job]) -> None:
        """Tell how many answers run, if some of them have just begun."""
        is_answer = {key: isinstance(job.prepared.work, AnswerRequest) for key, job in self._running.items()}
        if any(is_answer[key] for key in batch):
            self._on_batch(sum(is_answer.values()))

    def _call(self, engine: Engine, jobs: dict[int, _Job], call: Callable[[], list[Progress]]) -> None:
        """Call the engine and hand over what has come of it; a failure is that of all `jobs`."""
        self._call_began = time.monotonic()
        try:
            progress = call()
        except BrokenDeviceError:
            raise
        except Exception as exc:  # outermost boundary of the device thread
            failure = _as_engine_error(exc)
            for key in jobs:
                engine.drop(key)
            progress = [Progress(key, outcome=failure) for key in jobs]
        self._call_began = None
        for each in progress:
            self._hand_over(each)

    def _hand_over(self, progress: Progress) -> None:
        job = self._running[progress.key]
        queue_ms = 1000 * (job.began_at - job.queued_at)
        if job.tell is not None:
            if progress.opening is not None:
                job.tell(Answered(progress.opening, queue_ms))
            for token in progress.tokens:
                job.tell(token)
        if progress.outcome is None:
            return
        del self._running[progress.key]
        if isinstance(progress.outcome, EngineError):
            _fail(job.future, progress.outcome)
        elif isinstance(progress.outcome, AnswerResult):
            self._last_answer_s = time.monotonic() - job.began_at
            _fulfil(job.future, Answered(progress.outcome, queue_ms))
        else:
            _fulfil(job.future, progress.outcome)

    def _is_full(self) -> bool:
        """Whether what waits is enough, or should not wait for company."""
        room = self._max_batch - len(self._running)
        return self._n_queued >= room or bool(self._neutrals) or not self._is_open

    def _expects_more(self) -> bool:
        """Whether company for what waits is being prepared, and will be there soon."""
        if not self._had_company or self._is_full() or not 0 < self._n_queued < self.depth:
            return False
        oldest = min(waiting[0].queued_at for waiting in (self._second, self._first) if waiting)
        return time.monotonic() - oldest < _PATIENCE * self._max_wait_s

    def _has_work(self) -> bool:
        return bool(self._neutrals or self._second or self._first)

    def _take_batch(self, engine: Engine) -> dict[int, _Job]:
        """The next work that can begin together, by the keys it gets; called with the lock held."""
        if self._had_company and not self._running:  # under load only: more is on its way
            self._changed.wait_for(self._is_full, timeout=self._max_wait_s)
        if self._expects_more():
            if self._running:  # their next step is as good a use of the time
                return {}
            self._changed.wait_for(lambda: not self._expects_more(), timeout=_PATIENCE * self._max_wait_s)
        self._refuse_late()
        room = max(0, self._max_batch - len(self._running))
        answers = [*self._second, *self._first][:room]
        waiting = [*self._neutrals, *answers][: self._max_batch]
        chosen = [waiting[index] for index in engine.choose([job.prepared for job in waiting])]
        for job in chosen:
            self._queue_of(job).remove(job)
        begun = [job for job in chosen if job.future.set_running_or_notify_cancel()]
        for job in begun:
            job.began_at = time.monotonic()
        if begun:
            self._had_company = len(self._running) + len(begun) > 1
        return {next(self._keys): job for job in begun}

    def _queue_of(self, job: _Job) -> deque[_Job]:
        if isinstance(job.prepared.work, NeutralRequest):
            return self._neutrals
        return self._first if job.prepared.work.patch is None else self._second

    def _refuse_late(self) -> None:
        """Take out what was cancelled or is late."""
        for waiting in (self._neutrals, self._second, self._first):
            for job in [job for job in waiting if job.future.cancelled() or job.ticket.is_late]:
                waiting.remove(job)
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(TooLate())

    def _cancel_waiting(self) -> None:
        with self._changed:
            self._is_open = False
            futures = [job.future for job in (*self._second, *self._first, *self._neutrals)]
            for waiting in (self._first, self._second, self._neutrals):
                waiting.clear()
        for future in futures:
            if future.set_running_or_notify_cancel():
                _fail(future, QueueClosed())


class _Arrivals:
    """News on their way from the owner thread to the event loop, in order, until the answer is there."""

    def __init__(self, answer: Future[Answered]) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[_News | None] = asyncio.Queue()
        answer.add_done_callback(lambda _: self._put(None))

    def tell(self, news: _News) -> None:
        """Send news; for the owner thread."""
        self._put(news)

    def __aiter__(self) -> _Arrivals:
        return self

    async def __anext__(self) -> _News:
        news = await self._news.get()
        if news is None:
            raise StopAsyncIteration
        return news

    def _put(self, news: _News | None) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)


def _pass_on(news: _News, on_token: OnToken | None, on_opening: OnOpening | None) -> None:
    if isinstance(news, Answered):
        if on_opening is not None:
            on_opening(news)
    elif on_token is not None:
        on_token(news)


def _fulfil(future: Future[Any], result: Any) -> None:
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
