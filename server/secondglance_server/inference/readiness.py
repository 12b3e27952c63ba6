"""Whether the server wants requests: loading, ready, draining or failed, with the reason in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from secondglance_server.errors import not_ready

State = Literal["loading", "ready", "draining", "failed"]

_REASONS: dict[State, str] = {
    "loading": "the model is being loaded",
    "ready": "",
    "draining": "the server is shutting down",
    "failed": "the server has failed",
}


@dataclass(slots=True)
class Readiness:
    """One per app. `on_failure` is called when nothing will ever be answered: no model, or a dead device."""

    state: State = "loading"
    on_failure: Callable[[], None] = lambda: None
    failure: str = ""

    def become_ready(self) -> None:
        """A server that was told to drain while it loaded stays draining."""
        if self.state == "loading":
            self.state = "ready"

    def drain(self) -> None:
        if self.state != "failed":
            self.state = "draining"

    def fail(self, why: str) -> None:
        self.state = "failed"
        self.failure = why
        self.on_failure()

    @property
    def is_ready(self) -> bool:
        return self.state == "ready"

    @property
    def has_failed(self) -> bool:
        return self.state == "failed"

    def check(self) -> None:
        """Raises ProblemError NOT_READY with the reason."""
        if not self.is_ready:
            raise not_ready(self.reason)

    @property
    def reason(self) -> str:
        """Why the server is not ready, in words."""
        return self.failure or _REASONS[self.state]
