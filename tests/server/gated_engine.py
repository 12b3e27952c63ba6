"""A fake engine that makes a token when a test says so."""

from __future__ import annotations

import threading

from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import EngineError, Progress


class GatedEngine(FakeEngine):
    """Each decode step waits for one `gate.release()`; `breaks_at` is the step that fails, from 0."""

    def __init__(self, script: FakeScript | None = None) -> None:
        super().__init__(script)
        self.gate = threading.Semaphore(0)
        self.breaks_at: int | None = None
        self.n_steps = 0
        self.dropped: list[int] = []

    def step(self) -> list[Progress]:
        self.gate.acquire(timeout=20)
        if self.n_steps == self.breaks_at:
            raise EngineError("scripted failure")
        self.n_steps += 1
        return super().step()

    def drop(self, key: int) -> None:
        if key in self._running:
            self.dropped.append(key)
        super().drop(key)

    def open(self) -> None:
        """Let all further tokens come."""
        for _ in range(10_000):
            self.gate.release()
