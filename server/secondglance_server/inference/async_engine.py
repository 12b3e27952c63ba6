"""The async engine: what `TwoStages`, readiness, metrics and the app ask of a loaded model.

`DeviceQueue` implements it for engines that one thread owns (the prefix engine, the fake); a serving engine
with a scheduler of its own implements it directly. All methods run on the event loop unless they say
otherwise. Knows nothing of HTTP, sessions or torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, AttentionMap, Picture, TokenStats
from secondglance_server.inference.ticket import Ticket

Stage = Literal[1, 2]
OnToken = Callable[[TokenStats], None]
OnOpening = Callable[["Answered"], None]


class QueueFull(Exception):  # noqa: N818  # reads as the state it names, like queue.Full
    """No room; `retry_after_s` is how long the waiting work may take."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"retry after {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class QueueClosed(Exception):  # noqa: N818  # see QueueFull
    """The engine has ended or was never started."""


class TooLate(Exception):  # noqa: N818  # see QueueFull
    """The deadline passed before the engine had time for it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An engine's result and the milliseconds that its request waited for the device."""

    result: AnswerResult
    queue_ms: float


class AsyncEngine(Protocol):
    """A model that answers many requests at a time; stage two goes before stage one."""

    @property
    def held_bytes(self) -> int:
        """Of cached prefixes; may be read from any thread."""
        ...

    @property
    def depth(self) -> int:
        """Answers that wait for the device, those that are being prepared included."""
        ...

    @property
    def call_age_s(self) -> float:
        """How long the device has worked without a sign of life; 0 if it does not work."""
        ...

    @property
    def death(self) -> str | None:
        """Return why nothing will be answered any more, None while it works."""
        ...

    def check_room(self, stage: Stage) -> None:
        """Raises QueueFull, so that a full server can refuse before it reads or decodes anything."""
        ...

    def preparing(self, stage: Stage) -> AbstractContextManager[None]:
        """Hold a place while the request's pictures are decoded. Raises QueueFull."""
        ...

    async def answer(
        self,
        request: AnswerRequest,
        ticket: Ticket | None = None,
        on_token: OnToken | None = None,
        on_opening: OnOpening | None = None,
    ) -> Answered:
        """Raises QueueFull at once, EngineError, QueueClosed, TooLate.

        `on_token` is called on the event loop for each token of the answer, in order, before the answer is
        returned; `on_opening`, as early as the engine can, with what the prompt has shown: a result without
        text and tokens; an answer that is begun again has it again. What they raise is not caught.
        Cancelling the call drops its work, also what has begun: the place is free after the next step.
        Dropping its ticket drops work that has not begun.
        """
        ...

    async def neutral_attention(self, picture: Picture) -> AttentionMap:
        """Raises EngineError, QueueClosed. Never refused for room: its request was admitted before."""
        ...

    def close(self) -> None:
        """Drop what waits, let running work end, release the device. Blocks for some seconds."""
        ...

    def abandon(self) -> None:
        """Fail all work, what runs included: nothing will come of it."""
        ...
