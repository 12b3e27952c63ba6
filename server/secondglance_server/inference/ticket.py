"""One request's way to the device: until when its answer is wanted, and whether the device has begun on it.

The line is drawn there: what the device has not begun is dropped with the client or the deadline; what it has
begun is finished if the client may come back for the reply, and given up if nobody can.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError

T = TypeVar("T")

_unattended: set[asyncio.Task[Any]] = set()  # the event loop itself holds tasks only weakly


class Ticket:
    """`deadline`: on the monotonic clock."""

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.is_superseded = False  # the client has what it needs to go on without the reply
        self._answer: Future[Any] | None = None

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def queue(self, answer: Future[Any]) -> None:
        """The device will work on `answer`."""
        self._answer = answer

    def drop(self) -> bool:
        """True if the device has not begun; it never will then."""
        return self._answer is None or self._answer.cancel()


async def see_through(work: Coroutine[Any, Any, T], ticket: Ticket, *, is_kept: bool = True) -> T:
    """The result of `work`; raises what it raises, and ProblemError DEADLINE_EXCEEDED.

    If the deadline passes or the caller is cancelled, work that the device has not begun is cancelled. Other
    work goes on by itself if its result `is_kept` for a client that comes back, and is cancelled if not, or
    if the ticket is superseded.
    """
    task = asyncio.create_task(work)
    _unattended.add(task)
    task.add_done_callback(_collect)
    deadline = None if math.isinf(ticket.deadline) else ticket.deadline
    try:
        async with asyncio.timeout_at(deadline):
            return await asyncio.shield(task)
    except TimeoutError:
        _leave(task, ticket, is_kept)
        raise deadline_exceeded() from None
    except asyncio.CancelledError:
        _leave(task, ticket, is_kept)
        raise


def deadline_exceeded() -> ProblemError:
    return ProblemError(ErrorCode.DEADLINE_EXCEEDED, "no answer by the deadline")


def _leave(task: asyncio.Task[Any], ticket: Ticket, is_kept: bool) -> None:
    if ticket.drop() or ticket.is_superseded or not is_kept:
        task.cancel()


def _collect(task: asyncio.Task[Any]) -> None:
    _unattended.discard(task)
    if not task.cancelled():
        task.exception()  # asyncio would complain about one that nobody looks at
