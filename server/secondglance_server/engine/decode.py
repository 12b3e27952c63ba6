"""Greedy decoding of answers that come and go, with the uncertainty of every token.

A batch is between two steps whenever nobody works on it: each of its answers has one token more than its row
of the cache. On an accelerator the host reads a step's tokens while the next step runs, so it never waits for
the step it has just queued; an answer that has ended then takes part in one step too many, which nobody
reads. Knows no model and no text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secondglance_server.engine.stepping.rows import Rows
from secondglance_server.engine.stepping.uncertainty import Measured, uncertainty

Step = Callable[[Rows, Tensor], Measured]  # rows and their tokens [B] to the next tokens and how sure each is


@dataclass(slots=True, eq=False)
class Decoded:
    """One answer so far: `ids` without the end-of-sequence token, at most `limit` of them; `stats` of each
    (min-entropy nats, Shannon entropy nats, margin)."""

    limit: int
    ids: list[int] = field(default_factory=list)
    stats: list[tuple[float, float, float]] = field(default_factory=list)
    is_done: bool = False

    def take(self, token: int, stats: tuple[float, float, float], end_ids: frozenset[int]) -> None:
        if self.is_done or token in end_ids:
            self.is_done = True
            return
        self.ids.append(token)
        self.stats.append(stats)
        self.is_done = len(self.ids) == self.limit


class DecodeBatch:
    """Answers that take their steps together."""

    def __init__(
        self, rows: Rows, answers: Sequence[Decoded], logits: Tensor, end_ids: frozenset[int]
    ) -> None:
        """Take the first token of each answer. `logits` [B, vocabulary] of the prompts' last tokens."""
        self.rows = rows
        self.answers = list(answers)
        self._end_ids = end_ids
        self._lag = _steps_behind(logits.device)
        self._unread: deque[tuple[list[Decoded], Tensor, Tensor]] = deque()
        for answer in self.answers:
            answer.is_done = answer.limit <= 0
        self._tokens = self._pick(uncertainty(logits))
        self._read(leave=0)

    def step(self, step: Step) -> None:
        """Take one token more of each answer; those that are done leave."""
        self._tokens = self._pick(step(self.rows, self._tokens))
        self._read(leave=self._lag)

    def join(self, others: DecodeBatch) -> None:
        """Take the answers of another batch in; it is not used afterwards."""
        self.rows.append(others.rows)
        self.answers += others.answers
        self._tokens = torch.cat([self._tokens, others._tokens])

    def remove(self, answer: Decoded) -> None:
        """Let an answer go, if it is still here."""
        answer.is_done = True
        self._let_go()

    def _pick(self, next_tokens: Measured) -> Tensor:
        tokens, measured = next_tokens
        self._unread.append((list(self.answers), tokens, measured))
        return tokens

    def _read(self, leave: int) -> None:
        while len(self._unread) > leave:
            answers, tokens, measured = self._unread.popleft()
            for answer, token, stats in zip(answers, tokens.tolist(), measured.tolist(), strict=True):
                answer.take(token, tuple(stats), self._end_ids)
        self._let_go()

    def _let_go(self) -> None:
        """Take the rows of answers that are done out of the batch."""
        order = list(range(len(self.answers)))
        for row in reversed(range(len(self.answers))):
            if self.answers[order[row]].is_done:
                self.rows.remove(row)
                order[row] = order[-1]
                del order[-1]
        if len(order) < len(self.answers):
            self.answers = [self.answers[row] for row in order]
            self._tokens = self._tokens[torch.tensor(order, dtype=torch.long, device=self._tokens.device)]


def _steps_behind(device: torch.device) -> int:
    """Return how many steps are queued on the device when the host reads one's tokens."""
    return 0 if device.type == "cpu" else 1
