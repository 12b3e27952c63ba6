"""A whole watch in this process, with a server of our own making and ears for all that it says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secondglance.errors import EdgeError
from secondglance.settings import EdgeSettings
from secondglance.watching.spool import Waiting
from secondglance.watching.watch import Watch, WatchPlan

SETTINGS = EdgeSettings(retry_wait_s=0.01, max_retry_wait_s=0.05)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.005)


class RunningWatch:
    """Use as a context manager. `said` are the lines for people, `events` those for machines."""

    def __init__(self, plan: WatchPlan, state: Path, **options: Any) -> None:
        self.ask: Callable[[bytes, str], Any] = lambda picture, question: "an answer"
        self.said: list[str] = []
        self.events: list[Mapping[str, Any]] = []
        self.answered_names: list[str] = []
        self.pictures: list[bytes] = []
        self.failed_names: list[str] = []
        self.errors: list[EdgeError] = []
        self.error: BaseException | None = None
        settings = options.pop("settings", SETTINGS)
        self.watch = Watch(plan, state, settings, warn=self.said.append, report=self.events.append, **options)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.watch.run(self._ask, self)
        except BaseException as exc:  # the test's to look at
            self.error = exc

    def _ask(self, picture: bytes, question: str, *, idempotency_key: str) -> Any:
        return self.ask(picture, question)

    def answered(self, waiting: Waiting, question: str, reply: Any) -> Mapping[str, Any]:
        self.answered_names.append(waiting.name)
        self.pictures.append(waiting.picture)
        return {"id": waiting.id, "name": waiting.name, "question": question, "answer": str(reply)}

    def failed(self, waiting: Waiting, error: EdgeError) -> None:
        self.failed_names.append(waiting.name)
        self.errors.append(error)

    def away(self, error: EdgeError, pause_s: float) -> None:
        pass

    def __enter__(self) -> RunningWatch:
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.watch.stop()
        self.thread.join(30)
        self.watch.__exit__()
        assert not self.thread.is_alive(), "a watch ends when it is told"
