"""What a program may be told while a client works: requests, what came of them, answers.

Called by the thread or task that asks, between its steps: be quick, and raise nothing unless the question
shall end with it. `observe` of a client sees every step, these see what matters for logs and counters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from secondglance.conversation.steps import ExchangeResult, Send
from secondglance_protocol.wire import InferenceResponse


@dataclass(frozen=True, slots=True)
class Hooks:
    """`on_request` before each attempt, `on_response` after it, `on_answer` after each stage that answered.

    A request's `body` holds pictures and questions: log its length, not its content. An outcome is
    `steps.Arrived` (with status and bytes) or `steps.Lost` (with the reason).
    """

    on_request: Callable[[Send], None] | None = None
    on_response: Callable[[Send, ExchangeResult], None] | None = None
    on_answer: Callable[[InferenceResponse], None] | None = None

    def requested(self, send: Send) -> None:
        if self.on_request is not None:
            self.on_request(send)

    def responded(self, send: Send, outcome: ExchangeResult) -> None:
        if self.on_response is not None:
            self.on_response(send, outcome)

    def answered(self, reply: InferenceResponse) -> None:
        if self.on_answer is not None:
            self.on_answer(reply)
