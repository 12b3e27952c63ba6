"""An async engine whose tokens come when a test says so, in front of the app's own."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI

from secondglance_server.engine.protocol import AnswerRequest, EngineError
from secondglance_server.inference.async_engine import Answered, AsyncEngine, OnOpening, OnToken
from secondglance_server.inference.ticket import Ticket


class PacedEngine:
    """Takes answers from the engine behind it and gives one token, or the end, for each `step`."""

    def __init__(self, behind: AsyncEngine) -> None:
        self._behind = behind
        self._steps = asyncio.Semaphore(0)
        self.is_free = False  # no steps are waited for
        self.fails_at: int | None = None  # the token in place of which an answer fails
        self.failure: Exception = EngineError("scripted failure")
        self.n_running = 0
        self.n_cancelled = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def step(self, n_steps: int = 1) -> None:
        """Let the next token come."""
        for _ in range(n_steps):
            self._steps.release()

    async def answer(
        self,
        request: AnswerRequest,
        ticket: Ticket | None = None,
        on_token: OnToken | None = None,
        on_opening: OnOpening | None = None,
    ) -> Answered:
        answered = await self._behind.answer(request, ticket, on_opening=on_opening)
        self.n_running += 1
        try:
            for number, token in enumerate(answered.result.tokens):
                await self._turn()
                if number == self.fails_at:
                    raise self.failure
                if on_token is not None:
                    on_token(token)
            await self._turn()
        except asyncio.CancelledError:
            self.n_cancelled += 1
            raise
        finally:
            self.n_running -= 1
        return answered

    async def _turn(self) -> None:
        if not self.is_free:
            await self._steps.acquire()


def put_in_front(app: FastAPI) -> PacedEngine:
    """Pace the answers of an app that has not started."""
    engine = PacedEngine(app.state.server.device)
    app.state.server.device = engine
    return engine
