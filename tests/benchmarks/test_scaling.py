"""docs/scaling.md shows what was measured, and multiplies it right."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scaling.arithmetic import (
    Cost,
    Idle,
    cost_table,
    fleet_table,
    limits,
    limits_table,
    redis_cores,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "scaling.json").read_text())
COST, IDLE = Cost(**MEASURED["cost"]), Idle(**MEASURED["idle"])


@pytest.mark.parametrize("name", ["costs", "fleets", "limits"])
def test_the_page_shows_what_was_measured(name: str) -> None:
    """If this fails: make scaling"""
    tables = {
        "costs": cost_table(COST, IDLE),
        "fleets": fleet_table(COST, IDLE),
        "limits": limits_table(COST, IDLE),
    }
    (shown,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE, re.DOTALL)
    assert shown.strip() == tables[name].strip()


def test_nothing_costs_less_than_nothing() -> None:
    """nginx did, when an idle time was subtracted that was read in steps of ten milliseconds."""
    assert min(MEASURED["cost"].values()) > 0
    assert COST.redis_ledger_calls < COST.redis_calls


def test_twice_the_cost_is_half_the_fleet_and_the_first_limit_stands_first() -> None:
    dearer = replace(COST, redis_cpu_ms=2 * COST.redis_cpu_ms)
    found, halved = limits(COST, IDLE), limits(dearer, IDLE)
    assert list(found.values()) == sorted(found.values())
    redis = next(name for name in found if "one core of Redis" in name)
    assert halved[redis] == pytest.approx(found[redis] / 2)
    assert redis_cores(COST, IDLE, found[redis]) == pytest.approx(1)
