"""Asks questions about many pictures, some at a time, and hands every reply on before it asks the next.

A picture that fails is reported and left behind. When the server itself is away, all wait for it, up to a
limit, and then the run ends: what was not asked can be asked by the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secondglance.batch.results_file import Version
from secondglance.client import AsyncEdgeClient
from secondglance.conversation.failures import wait_s, will_pass
from secondglance.errors import EdgeError, NotAllowedError, UplinkBudgetError, UsageError
from secondglance.reply import Reply
from secondglance.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class Task:
    """One picture and the questions about it, asked in this order: only the first one sends the picture."""

    path: Path
    version: Version
    questions: tuple[str, ...]


class BatchStoppedError(Exception):
    """No use in going on; `error` says why: the server stayed away, or refuses everything."""

    def __init__(self, error: EdgeError) -> None:
        super().__init__(str(error))
        self.error = error


class BatchAsker:
    """Runs tasks. `answered` and `failed` are told what came of each question; `answered` is waited for.

    No failure of one picture ends the run, an unexpected one neither.
    """

    def __init__(
        self,
        client: AsyncEdgeClient,
        *,
        idempotency_key: str | None,
        policy: RetryPolicy,
        patience_s: float,
        answered: Callable[[Task, str, Reply], Awaitable[None]],
        failed: Callable[[Task, str, Exception], None],
    ) -> None:
        self._client = client
        self._idempotency_key = idempotency_key
        self._policy = policy
        self._patience_s = patience_s
        self._answered = answered
        self._failed = failed
        self._last_contact = time.monotonic()

    async def run(self, tasks: Iterable[Task], *, concurrency: int) -> None:
        """Raises BatchStoppedError; whatever `answered` raises ends the run, too."""
        left = iter(tasks)
        self._last_contact = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(self._work(left))
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error.exceptions[0].__cause__

    async def _work(self, left: Iterator[Task]) -> None:
        for task in left:
            for question in task.questions:
                try:
                    reply = await self._ask(task, question)
                except EdgeError as exc:
                    if _concerns_all(exc):
                        raise BatchStoppedError(exc) from exc
                    self._failed(task, question, exc)
                except BatchStoppedError:
                    raise
                except Exception as exc:  # whatever one picture does to a decoder, the others are asked about
                    self._failed(task, question, exc)
                else:
                    await self._answered(task, question, reply)

    async def _ask(self, task: Task, question: str) -> Reply:
        """Waits while the server is away. Raises EdgeError; BatchStoppedError if it stays away."""
        failures = 0
        while True:
            try:
                reply = await self._client.ask(task.path, question, idempotency_key=self._idempotency_key)
            except EdgeError as exc:
                if not will_pass(exc):
                    self._last_contact = time.monotonic()
                    raise
                pause_s = wait_s(self._policy, failures)
                if time.monotonic() + pause_s > self._last_contact + self._patience_s:
                    raise BatchStoppedError(exc) from exc
                await asyncio.sleep(pause_s)
                failures += 1
            else:
                self._last_contact = time.monotonic()
                return reply


def _concerns_all(error: EdgeError) -> bool:
    """Whether every other picture would fail alike."""
    if isinstance(error, UplinkBudgetError):
        return False
    return isinstance(error, (NotAllowedError, UsageError))
