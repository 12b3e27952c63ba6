"""Two trees in one run: each child runs its own tree, and a ratio is this tree's cost over the other's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.before_after import HERE, Start, Tree, alternating, compared, figures, measure_starts
from benchmarks.instruments.edges import Exchange
from benchmarks.throughput import Level


def older_tree(root: Path) -> Tree:
    """A tree of the layout before the packages had names of their own."""
    for package in ("server", "edge_client"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
        (root / package / "cli.py").write_text("def main(): print('old')\n")
    return Tree.at(root)


def test_both_layouts_are_known_and_nothing_else(tmp_path: Path) -> None:
    assert Tree.at(HERE).server == "secondglance_server.cli"
    assert older_tree(tmp_path / "old").server == "server.cli"
    with pytest.raises(ValueError, match="holds no server"):
        Tree.at(tmp_path)


@pytest.mark.parametrize("is_older", [False, True])
def test_a_child_runs_its_own_tree_wherever_it_is_started(is_older: bool, tmp_path: Path) -> None:
    """The checkout that the benchmark runs in, and an installed copy, must not win."""
    tree = older_tree(tmp_path) if is_older else Tree.at(HERE)
    program = f"import {tree.server} as s, {tree.edge} as e; print(s.__file__, e.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **tree.environment},
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [path.startswith(str(tree.root)) for path in ran.stdout.split()] == [True, True]


def test_starts_of_both_trees_are_measured_in_turn(tmp_path: Path) -> None:
    trees = (Tree.at(HERE), older_tree(tmp_path))
    starts = measure_starts(trees, 2)
    assert [len(own) for own in starts] == [2, 2]
    assert all(start.processor_s > 0 for own in starts for start in own)
    assert min(s.processor_s for s in starts[0]) > max(s.processor_s for s in starts[1])


def test_a_tree_beside_itself_is_measured_twice(tmp_path: Path) -> None:
    """Equal trees shared one list of figures, so that every ratio was exactly 1."""
    tree = older_tree(tmp_path)
    here, beside = measure_starts((tree, tree), 3)
    assert (len(here), len(beside)) == (3, 3)
    assert here != beside


def test_no_tree_is_always_first() -> None:
    assert [side for _, side in alternating(4)] == [1, 0, 0, 1, 1, 0, 0, 1]


def test_a_ratio_is_the_median_round_by_round() -> None:
    """The second round was slow for both: that is no difference between them."""
    assert compared([2.0, 20.0, 2.0], [1.0, 10.0, 4.0]) == {
        "here": 2.0, "beside": 4.0, "ratio": 2.0, "least": 0.5, "greatest": 2.0,
    }  # fmt: skip


def test_figures_are_milliseconds_for_each_request() -> None:
    exchange = Exchange(0, "first", 0.1, "a", 0.0, (), 1)
    levels = [Level(4, 2.0, [exchange] * 4, 1.0, 0.0, cpu_s) for cpu_s in (0.4, 0.8)]
    found = figures(([levels[0]], [levels[1]]), ([Start(0.1, 0.3)], [Start(0.2, 0.3)]))
    assert found["server_processor_ms_per_request"]["here"] == 100
    assert found["server_processor_ms_per_request"]["ratio"] == 0.5
    assert found["elapsed_ms_per_request"]["ratio"] == 1
    assert found["help_processor_ms"]["beside"] == 200
