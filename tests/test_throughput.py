"""Many edges at once over real HTTP: answers run together and are those of an unloaded server."""

from __future__ import annotations

import pytest

from benchmarks.instruments.ceiling import Cost, Machine
from benchmarks.instruments.edges import Exchange
from benchmarks.throughput import Level, ceiling, conversations, differing, run_level
from secondglance_server.testing import serving

pytestmark = pytest.mark.live

BUDGET = {"max_width": 224, "max_height": 224, "max_pixels": None}


def test_answers_under_load_are_those_of_an_unloaded_server() -> None:
    """Six edges send pictures that are new to the server; then one edge asks the same, one by one."""
    prepared = conversations(6, BUDGET)
    assert len({conversation.upload for conversation in prepared}) == 6
    with serving(environment={"OMP_NUM_THREADS": "1"}) as url:  # a busy machine makes two threads slower
        loaded, unloaded = run_level(url, prepared, 6), run_level(url, prepared, 1)
    assert loaded.mean_batch > 1
    assert unloaded.mean_batch == 1
    assert {e.kind for e in unloaded.exchanges} == {"first", "stage2", "follow_up"}
    assert differing(loaded, unloaded, tolerance=1e-3) == 0


def exchange(answer: str = "42", uncertainty: float = 0.5, number: int = 0) -> Exchange:
    return Exchange(number, "first", 0.1, answer, uncertainty, (), 3)


def level(*exchanges: Exchange, edges: int = 1) -> Level:
    return Level(edges, 1.0, list(exchanges), 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("got", "count"),
    [
        ([exchange()], 0),
        ([exchange(uncertainty=0.5004)], 0),
        ([exchange("43")], 1),
        ([exchange(uncertainty=0.51)], 1),
        ([], 1),
        ([exchange(), exchange(number=1)], 1),
    ],
)
def test_a_reply_that_differs_is_counted(got: list[Exchange], count: int) -> None:
    assert differing(level(*got), level(exchange()), tolerance=1e-3) == count


def test_the_ceiling_shares_weights_within_a_batch_and_takes_the_slower_of_arithmetic_and_memory() -> None:
    cost = Cost(
        prefill_flops=100.0,
        prefill_shared_bytes=10.0,
        step_flops=1.0,
        step_shared_bytes=40.0,
        step_own_bytes=2.0,
    )
    machine = Machine(flops_per_s=100.0, bytes_per_s=10.0)
    alone = ceiling(level(exchange()), {"first": cost}, machine, max_batch=8)
    together = ceiling(level(exchange(), edges=16), {"first": cost}, machine, max_batch=4)
    assert alone == pytest.approx(1 / (1.0 + 3 * 4.2))  # prompt bound by arithmetic, three steps by memory
    assert together == pytest.approx(1 / (1.0 + 3 * 1.2))
