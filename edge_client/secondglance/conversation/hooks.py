"""What a program may be told while a client works: requests, what came of them, answers.

Called by the thread or task that asks, between its steps: be quick, and raise nothing unless the question
shall end with it. `observe` of a client sees every step, these see what matters for logs and counters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from secondglance.conversation.steps import ExchangeResult, Send, Token
from secondglance_protocol.wire import InferenceResponse


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions that a client calls: before each attempt, after it, and after each stage that answered.

    With `on_token`, the server is asked for its answers as they come, and each token of the draft and of the
    answer after a second glance is told once. A draft is final only when `on_answer` has told its reply and
    that is `answered`. With the setting `early_region`, no more of a draft is told once its region is asked
    for.

    A request's `body` holds pictures and questions: log its length, not its content. An outcome is
    `steps.Arrived` (with status and bytes) or `steps.Lost` (with the reason). What a function raises ends the
    question.

    >>> from secondglance import EdgeClient
    >>> seen = []
    >>> hooks = Hooks(on_request=lambda send: seen.append(send.method))
    >>> with EdgeClient(hooks=hooks) as client:
    ...     reply = client.ask("examples/photo.jpg", "What is written on the red sign?")
    >>> seen  # what the server takes, the small copy, the region
    ['GET', 'POST', 'PUT']
    >>> words = []
    >>> with EdgeClient(hooks=Hooks(on_token=lambda token: words.append(token.text))) as client:
    ...     reply = client.ask("examples/photo.jpg", "How many signs are there?")
    >>> "".join(words) == reply.answer
    True
    """

    on_request: Callable[[Send], None] | None = None
    on_response: Callable[[Send, ExchangeResult], None] | None = None
    on_answer: Callable[[InferenceResponse], None] | None = None
    on_token: Callable[[Token], None] | None = None

    def requested(self, send: Send) -> None:
        """Call `on_request`, if there is one."""
        if self.on_request is not None:
            self.on_request(send)

    def responded(self, send: Send, outcome: ExchangeResult) -> None:
        """Call `on_response`, if there is one."""
        if self.on_response is not None:
            self.on_response(send, outcome)

    def answered(self, reply: InferenceResponse) -> None:
        """Call `on_answer`, if there is one."""
        if self.on_answer is not None:
            self.on_answer(reply)
