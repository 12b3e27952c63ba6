"""Greedy decoding: what it emits, when it stops, and how sure it says it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from secondglance_server.engine.decode import decode_greedily, uncertainty

END = 0


def script(*rows: list[int]) -> list[torch.Tensor]:
    """Logits [B, 6] for each step, with these tokens on top."""
    return [
        torch.nn.functional.one_hot(torch.tensor(step), 6).float() * 9 for step in zip(*rows, strict=True)
    ]


def run(steps: list[torch.Tensor], limits: list[int]) -> tuple[list[list[int]], int]:
    calls = iter(steps[1:])
    decoded = decode_greedily(lambda _: next(calls), steps[0], limits, frozenset({END}))
    for row in decoded:
        assert row.stats.shape == (len(row.ids), 3)
    return [row.ids for row in decoded], len(steps) - 1 - len(list(calls))


def test_the_end_token_stops_a_row_and_is_not_part_of_it() -> None:
    assert run(script([3, 4, END, 5]), [9]) == ([[3, 4]], 2)


def test_a_batch_runs_until_its_last_row_is_done_and_each_row_keeps_its_limit() -> None:
    ids, steps = run(script([3, END, 5, 5], [1, 2, 3, END], [4, 4, 4, 4]), [9, 9, 2])
    assert ids == [[3], [1, 2, 3], [4, 4]]
    assert steps == 3


def test_no_step_runs_after_the_limit() -> None:
    assert run(script([3, 3]), [1]) == ([[3]], 0)
    assert run(script([3, 3]), [0]) == ([[]], 0)


def test_an_answer_may_be_empty() -> None:
    assert run(script([END]), [4]) == ([[]], 0)


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
