"""An engine that schedules for itself: places, deadlines and signs of life around a serving core.

The core takes every request at once and decides which run in its next step; it serves urgent ones first. So
what is counted here is how many there are: those beyond what runs together wait. A request that is cancelled
leaves the core at once, whether it had begun or not. Knows nothing of HTTP or torch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    AttentionMap,
    BrokenDeviceError,
    Picture,
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
from secondglance_server.inference.serving.core import ServingCore
from secondglance_server.inference.ticket import Ticket

R = TypeVar("R")
_SHARE_OF_NEWEST = 0.2  # in the running mean of an answer's seconds


class ServingEngine:
    """Implements `AsyncEngine` for a `ServingCore`. Start it once, on the event loop."""

    def __init__(self, *, max_queue: int, max_running: int) -> None:
        self._max_queue = max_queue
        self._max_running = max_running
        self._core: ServingCore | None = None
        self._loading: asyncio.Task[None] | None = None
        self._is_open = False
        self._death: str | None = None
        self._preparing = {1: 0, 2: 0}  # requests of each stage that will ask for an answer soon
        self._answers = {1: 0, 2: 0}  # of each stage, that the core has
        self._work: set[asyncio.Future[Any]] = set()
        self._busy_since = 0.0
        self._mean_answer_s = 0.0

    def start(self, load: Callable[[], Awaitable[ServingCore]]) -> Future[ServingCore]:
        """Load the core; the future holds it, or why it could not be loaded."""
        loaded: Future[ServingCore] = Future()
        loaded.set_running_or_notify_cancel()  # from here on a waiter that gives up cannot cancel it
        self._is_open = True
        self._loading = asyncio.ensure_future(self._load(load, loaded))
        return loaded

    def close(self) -> None:
        """Drop all work and release the device. Blocks for some seconds; not called on the event loop."""
        self._is_open = False
        if self._core is not None:
            self._core.close()

    def abandon(self) -> None:
        """Fail all work: nothing will come of it."""
        self._is_open = False
        for work in self._work:
            work.cancel()

    @property
    def held_bytes(self) -> int:
        """Of cached prefixes; may be read from any thread."""
        return 0 if self._core is None else self._core.held_bytes

    @property
    def depth(self) -> int:
        """Answers beyond those that run together, those that are being prepared included."""
        return max(0, sum(self._answers.values()) - self._max_running) + sum(self._preparing.values())

    @property
    def call_age_s(self) -> float:
        """How long the core has had work without a sign of life; 0 if it has none."""
        if self._core is None or not self._work:
            return 0.0
        return time.monotonic() - max(self._busy_since, self._core.last_sign_of_life)

    @property
    def death(self) -> str | None:
        """Return why nothing will be answered any more, None while the core works."""
        if self._death is None and self._core is not None and self._is_open:
            self._death = self._core.death
        return self._death

    def check_room(self, stage: Stage) -> None:
        """Raises QueueFull.

        The first stage has room while fewer than `max_queue` of both wait; the second, which a client holds
        its picture for, while fewer than that of its own do.
        """
        waiting = self._waiting(stage)
        if waiting >= self._max_queue:
            raise QueueFull(retry_after_s=max(1.0, waiting / self._max_running * self._mean_answer_s))

    @contextmanager
    def preparing(self, stage: Stage) -> Iterator[None]:
        """Hold a place while the request's pictures are decoded. Raises QueueFull."""
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
        """As `AsyncEngine.answer`; cancelling the call also ends work that has begun."""
        stage: Stage = 1 if request.patch is None else 2
        self.check_room(stage)
        if ticket is not None and ticket.is_late:
            raise TooLate
        core = self._open_core()

        def opened(result: AnswerResult, waited_ms: float) -> None:
            if on_opening is not None:
                on_opening(Answered(result, waited_ms))

        async with self._counted(stage):
            result, queue_ms = await self._do(
                core.answer(
                    request,
                    on_token=on_token or _ignore,
                    on_opening=opened,
                    is_urgent=stage == 2,
                )
            )
        return Answered(result, queue_ms)

    async def neutral_attention(self, picture: Picture) -> AttentionMap:
        """Raises EngineError, QueueClosed. Never refused for room: its request was admitted before."""
        return await self._do(self._open_core().neutral_attention(picture))

    async def _load(self, load: Callable[[], Awaitable[ServingCore]], loaded: Future[ServingCore]) -> None:
        """Load, and tell whoever waits for it."""
        try:
            self._core = await load()
        except BaseException as exc:
            self._is_open = False
            loaded.set_exception(exc)
            if not isinstance(exc, Exception):  # the server stops while it loads
                raise
        else:
            loaded.set_result(self._core)

    def _open_core(self) -> ServingCore:
        if self._core is None or not self._is_open:
            raise QueueClosed
        return self._core

    def _waiting(self, stage: Stage) -> int:
        if stage == 1:
            return self.depth
        return max(0, self._answers[2] - self._max_running) + self._preparing[2]

    @asynccontextmanager
    async def _counted(self, stage: Stage) -> AsyncIterator[None]:
        self._answers[stage] += 1
        began = time.monotonic()
        try:
            yield
            newest = time.monotonic() - began
            self._mean_answer_s += _SHARE_OF_NEWEST * (newest - self._mean_answer_s)
        finally:
            self._answers[stage] -= 1

    async def _do(self, work: Awaitable[R]) -> R:
        """Await it as a task that `abandon` can end. Raises QueueClosed then, and if the core has died."""
        task = asyncio.ensure_future(work)
        if not self._work:
            self._busy_since = time.monotonic()
        self._work.add(task)
        try:
            return await task
        except BrokenDeviceError as exc:
            self._death = self._death or str(exc)
            raise QueueClosed from exc
        except asyncio.CancelledError:
            if task.cancelled() and not self._is_open:
                raise QueueClosed from None
            raise
        finally:
            self._work.discard(task)
            task.cancel()


def _ignore(_: object) -> None:
    """For who does not want tokens."""
