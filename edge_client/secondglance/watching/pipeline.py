"""The loop of a watch: take the oldest waiting picture, ask, hand the answer on, and wait out what is away.

Order is kept: nothing is asked before what came earlier is settled. What cannot be asked because the server
is away waits, however long (the spool's caps decide); what fails for a reason of its own is given up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from secondglance.conversation.failures import wait_s, will_pass
from secondglance.errors import EdgeError, NotAllowedError, TimedOutError
from secondglance.reply import Reply
from secondglance.retry import RetryPolicy
from secondglance.watching.spool import Spool, Waiting
from secondglance_protocol.errors import ERRORS

MAX_ATTEMPTS = 5
"""For one picture that the server fails on, although it can be reached: then it is in the others' way."""


class Asker(Protocol):
    """Asks one question about one picture. Raises EdgeError."""

    def __call__(self, picture: bytes, question: str, /, *, idempotency_key: str) -> Reply: ...


class Listener(Protocol):
    """Is told what happens."""

    def answered(self, waiting: Waiting, question: str, reply: Reply) -> Mapping[str, Any] | None:
        """Return what is to be handed on."""

    def failed(self, waiting: Waiting, error: EdgeError) -> None: ...

    def away(self, error: EdgeError, pause_s: float) -> None:
        """The server cannot be asked now; the next attempt is in `pause_s`."""


class Pipeline:
    """Empties a spool for as long as `more_to_come` says so. Wake it with `arrived.set()`.

    `hand_on` takes what a listener returns of an answer; it writes in the transaction that settles the
    question.
    """

    def __init__(
        self,
        spool: Spool,
        ask: Asker,
        listener: Listener,
        *,
        policy: RetryPolicy,
        more_to_come: Callable[[], bool],
        waits_for_server: bool = True,
        hand_on: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.arrived = threading.Event()
        self._stopped = threading.Event()
        self._spool = spool
        self._ask = ask
        self._listener = listener
        self._policy = policy
        self._more_to_come = more_to_come
        self._waits_for_server = waits_for_server
        self._hand_on = hand_on
        self._failures = 0

    def stop(self) -> None:
        """Return from `run` once the current question is settled; any thread may call this."""
        self._stopped.set()
        self.arrived.set()

    def run(self) -> None:
        """Raises EdgeError if the server is away and not waited for."""
        while not self._stopped.is_set():
            self.arrived.clear()
            last = not self._more_to_come()
            waiting = self._spool.take()
            if waiting is not None:
                self._settle(waiting)
            elif last:
                return
            else:
                self.arrived.wait()

    def _settle(self, waiting: Waiting) -> None:
        """Ask all that is left to ask about one picture, or leave it where it is."""
        for question in waiting.questions:
            try:
                reply = self._ask(waiting.picture, question, idempotency_key=waiting.id)
            except EdgeError as exc:
                self._not_answered(waiting, exc)
                return
            except Exception as exc:  # one picture's trouble is not another's
                self._not_answered(waiting, EdgeError(f"unexpected {type(exc).__name__}: {exc}"))
                return
            self._failures = 0
            record = self._listener.answered(waiting, question, reply)
            with self._spool.settling():
                self._spool.answered(waiting, question)
                if record is not None and self._hand_on is not None:
                    self._hand_on(record)

    def _not_answered(self, waiting: Waiting, error: EdgeError) -> None:
        is_away = will_pass(error) or isinstance(error, NotAllowedError)
        attempts = self._spool.put_back(taken=waiting, counts=not is_away)
        if is_away and not self._waits_for_server:
            raise error
        if is_away or (_may_be_chance(error) and attempts < MAX_ATTEMPTS):
            pause_s = wait_s(self._policy, self._failures)
            self._failures += 1
            self._listener.away(error, pause_s)
            self._stopped.wait(pause_s)
        else:
            self._listener.failed(waiting, error)
            self._spool.fail(waiting)


def _may_be_chance(error: EdgeError) -> bool:
    """Whether the same picture may fare better in another attempt."""
    row = next((row for code, row in ERRORS.items() if code == error.code), None)
    return isinstance(error, TimedOutError) or (row is not None and row.retryable)
