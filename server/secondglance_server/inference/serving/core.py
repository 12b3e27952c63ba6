"""What `ServingEngine` asks of a model with a scheduler of its own. Methods run on the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, AttentionMap, EngineInfo, Picture
from secondglance_server.inference.async_engine import OnToken


class ServingCore(Protocol):
    """A loaded model with a scheduler of its own."""

    info: EngineInfo
    last_sign_of_life: float  # on the monotonic clock

    @property
    def death(self) -> str | None:
        """Why nothing will be answered any more, None while it works."""
        ...

    @property
    def held_bytes(self) -> int:
        """Of cached prefixes; may be read from any thread."""
        ...

    async def answer(
        self,
        request: AnswerRequest,
        *,
        on_token: OnToken,
        on_opening: Callable[[AnswerResult, float], None],
        is_urgent: bool,
    ) -> tuple[AnswerResult, float]:
        """Return the answer and the milliseconds that it waited. Raises EngineError, BrokenDeviceError.

        `on_opening` is called as early as can be with what the prompt has shown, as a result without text and
        tokens, and those milliseconds.
        """
        ...

    async def neutral_attention(self, picture: Picture) -> AttentionMap:
        """Raises EngineError, BrokenDeviceError."""
        ...

    def close(self) -> None:
        """Release the device. Blocks for some seconds."""
        ...
