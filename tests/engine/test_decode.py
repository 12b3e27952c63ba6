"""Greedy decoding: what it emits, when it stops, and how sure it says it was."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from secondglance_server.engine.decode import DecodeBatch, Decoded
from secondglance_server.engine.kv_cache import empty_cache
from secondglance_server.engine.stepping.rows import Rows
from secondglance_server.engine.stepping.uncertainty import Measured, uncertainty

END = 0
PROMPT = 3  # tokens


def logits_for(tokens: Sequence[int]) -> torch.Tensor:
    """Logits [B, 6] with these tokens on top."""
    return torch.nn.functional.one_hot(torch.tensor(tokens), 6).float() * 9


def rows_of(scripts: Sequence[Sequence[int]], limits: Sequence[int]) -> Rows:
    """Rows after a prompt of PROMPT tokens."""
    cache = empty_cache(1, PROMPT + max(limits))
    keys = torch.zeros(len(scripts), 1, PROMPT, 2)
    cache.update(keys, keys.clone(), 0)
    return Rows.of(cache, visible=None, positions=torch.full((1, len(scripts), 1), PROMPT), new_tokens=limits)


class Script:
    """A model that says what each answer's script says next, and counts its steps."""

    def __init__(self) -> None:
        self.steps: list[int] = []  # rows of each
        self.said: dict[Decoded, list[int]] = {}

    def begin(self, scripts: Sequence[Sequence[int]], limits: Sequence[int], *, lag: int = 0) -> DecodeBatch:
        answers = [Decoded(limit) for limit in limits]
        self.said |= {answer: list(said[1:]) for answer, said in zip(answers, scripts, strict=True)}
        first = logits_for([said[0] for said in scripts])
        batch = DecodeBatch(rows_of(scripts, limits), answers, first, frozenset({END}))
        batch._lag = lag
        return batch

    def finish(self, batch: DecodeBatch) -> None:
        while batch.answers:
            self.step(batch)

    def step(self, batch: DecodeBatch) -> None:
        def forward(rows: Rows, tokens: torch.Tensor) -> Measured:
            assert len(rows) == len(tokens) == len(batch.answers)
            self.steps.append(len(rows))
            rows.advance()
            said = [self.said[a].pop(0) if self.said[a] else 5 for a in batch.answers]
            return uncertainty(logits_for(said))

        batch.step(forward)


def run(scripts: list[list[int]], limits: list[int], lag: int = 0) -> tuple[list[list[int]], list[int]]:
    model = Script()
    batch = model.begin(scripts, limits, lag=lag)
    answers = list(model.said)
    model.finish(batch)
    for answer in answers:
        assert len(answer.stats) == len(answer.ids)
        assert answer.is_done
    return [answer.ids for answer in answers], model.steps


@pytest.mark.parametrize("lag", [0, 1])
def test_the_end_token_stops_a_row_and_is_not_part_of_it(lag: int) -> None:
    """On an accelerator (lag 1) one step more has been queued by the time the end is read."""
    assert run([[3, 4, END, 5]], [9], lag) == ([[3, 4]], [1] * (2 + lag))


def test_an_answer_that_has_ended_takes_no_more_steps_and_each_keeps_its_limit() -> None:
    ids, steps = run([[3, END, 5, 5], [1, 2, 3, END], [4, 4, 4, 4]], [9, 9, 2])
    assert ids == [[3], [1, 2, 3], [4, 4]]
    assert steps == [3, 1, 1]


@pytest.mark.parametrize("lag", [0, 1])
def test_what_an_answer_says_does_not_depend_on_when_it_is_read(lag: int) -> None:
    ids, _ = run([[3, END, 5, 5], [1, 2, 3, END], [4, 4, 4, 4], [END], [2, 2]], [9, 9, 2, 9, 1], lag)
    assert ids == [[3], [1, 2, 3], [4, 4], [], [2]]


def test_no_step_runs_after_the_limit() -> None:
    assert run([[3, 3]], [1]) == ([[3]], [])
    assert run([[3, 3]], [0]) == ([[]], [])


def test_an_answer_may_be_empty() -> None:
    assert run([[END]], [4]) == ([[]], [])


@pytest.mark.parametrize("lag", [0, 1])
def test_answers_join_and_are_dropped_between_steps(lag: int) -> None:
    """M5: a short answer begins while a long one runs, and leaves before it."""
    model = Script()
    batch = model.begin([[1, 2, 3, 4, 1, 2, 3, END], [5, 5, 5, 5, 5]], [9, 9], lag=lag)
    long, dropped = batch.answers
    model.step(batch)
    others = model.begin([[3, 4, END], [2, END]], [9, 9], lag=lag)
    short, shorter = others.answers
    batch.join(others)
    model.step(batch)
    batch.remove(dropped)
    batch.remove(dropped)  # a second time it changes nothing
    while not (short.is_done and shorter.is_done):
        model.step(batch)
    assert not long.is_done
    model.finish(batch)
    assert (long.ids, short.ids, shorter.ids) == ([1, 2, 3, 4, 1, 2, 3], [3, 4], [2])
    assert dropped.ids in ([5, 5, 5], [5, 5])


def test_uncertainty_is_in_nats_and_larger_when_less_certain() -> None:
    p = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64)
    ids, stats = uncertainty(p.log())
    assert ids.tolist() == [0, 0]
    np.testing.assert_allclose(stats[0], [math.log(2), 1.75 * math.log(2), 0.75], rtol=1e-6)
    assert (stats[0] > stats[1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_suppressed_token_does_not_spoil_the_entropy(dtype: torch.dtype) -> None:
    _, stats = uncertainty(torch.tensor([[1.0, 1.0, float("-inf")]], dtype=dtype))
    np.testing.assert_allclose(stats[0], [math.log(2), math.log(2), 1.0], rtol=1e-6)
