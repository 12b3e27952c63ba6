"""This tree beside an older one, in one run: what a request costs, and how the command line starts.

    git worktree add ../before COMMIT
    python -m benchmarks.before_after --beside ../before [--rounds 5] [--conversations 8] [--edges 4]
                                      [--starts 15] [--out FILE]

Both servers run the embedded model with one thread and stay up; rounds alternate between them, each time
with pictures that neither has seen, so that a busy machine is busy for both. Costs are processor time, which
other programs change least. A ratio is this tree's cost over the other's, the median over rounds; 1 is
equal. The first round of each server and the first start of each command are warm-up and not counted. Prints
a table and, last, one line of JSON.

Both trees run with the packages of this environment; a tree is put in front of whatever is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.throughput import Level, conversations, run_level
from secondglance_server.testing import serving

HERE = Path(__file__).parents[1]
_FOLDERS = ("shared", "edge_client", "server")
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout and the names that its server and its edge have in it."""

    root: Path
    server: str
    edge: str
    paths: tuple[Path, ...]

    @classmethod
    def at(cls, root: Path) -> Tree:
        """Return the tree at `root`, of today's layout or of the one before. Raises ValueError."""
        root = root.resolve()
        if (root / "server" / "secondglance_server" / "cli.py").is_file():
            paths = tuple(root / name for name in _FOLDERS)
            return cls(root, "secondglance_server.cli", "secondglance.cli", paths)
        if (root / "server" / "cli.py").is_file():
            return cls(root, "server.cli", "edge_client.cli", (root,))
        raise ValueError(f"{root} holds no server of this project")

    @property
    def environment(self) -> dict[str, str]:
        """What makes a child process run this tree and no other."""
        return {"PYTHONPATH": os.pathsep.join(map(str, self.paths)), "PYTHONSAFEPATH": "1", **_THREADS}

    @property
    def commit(self) -> str:
        command = ["git", "-C", str(self.root), "rev-parse", "--short", "HEAD"]
        return (
            subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
        )


@dataclass(frozen=True, slots=True)
class Start:
    """One run of `secondglance --help`, in seconds."""

    processor_s: float
    elapsed_s: float


def start_once(tree: Tree) -> Start:
    """Run `secondglance --help` of that tree in a fresh process."""
    program = f"from {tree.edge} import main; main()"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program, "--help"],
        env={**os.environ, **tree.environment},
        capture_output=True,
        check=True,
    )
    after, elapsed_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return Start(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, elapsed_s)


Pair: TypeAlias = tuple[Tree, Tree]


def alternating(rounds: int) -> Iterator[tuple[int, int]]:
    """Yield round and number of tree: both trees in each round, the second one first in every other."""
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            yield number, side


def measure_starts(trees: Pair, runs: int) -> tuple[list[Start], list[Start]]:
    """Return `runs` starts of each tree, without the warm-up."""
    found: tuple[list[Start], list[Start]] = ([], [])
    for _, side in alternating(runs + 1):
        found[side].append(start_once(trees[side]))
    return found[0][1:], found[1][1:]


def measure_requests(trees: Pair, rounds: int, count: int, edges: int) -> tuple[list[Level], list[Level]]:
    """Return `rounds` levels of each tree's server, without the warm-up; `count` conversations in each."""
    found: tuple[list[Level], list[Level]] = ([], [])
    with contextlib.ExitStack() as running:
        urls = [
            running.enter_context(
                serving(program=(tree.server, "serve"), environment=tree.environment, ready_timeout_s=300)
            )
            for tree in trees
        ]
        budget = httpx.get(f"{urls[0]}/v1/model").json()["image"]
        prepared = conversations(count * (rounds + 1), budget)
        for number, side in alternating(rounds + 1):
            part = prepared[number * count : (number + 1) * count]
            found[side].append(run_level(urls[side], part, edges))
    return found[0][1:], found[1][1:]


def compared(here: Sequence[float], beside: Sequence[float]) -> dict[str, float]:
    """Return both medians, and the median, least and greatest of the ratios round by round."""
    ratios = [mine / other for mine, other in zip(here, beside, strict=True)]
    return {
        "here": round(statistics.median(here), 3),
        "beside": round(statistics.median(beside), 3),
        "ratio": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "greatest": round(max(ratios), 3),
    }


def figures(
    levels: tuple[list[Level], list[Level]], starts: tuple[list[Start], list[Start]]
) -> dict[str, dict[str, float]]:
    """Return what is compared, this tree's first; times in milliseconds."""

    def server_ms(level: Level) -> float:
        return 1e3 * level.server_cpu_s / len(level.exchanges)

    def request_ms(level: Level) -> float:
        return 1e3 * level.seconds / len(level.exchanges)

    return {
        "server_processor_ms_per_request": compared(*(list(map(server_ms, part)) for part in levels)),
        "elapsed_ms_per_request": compared(*(list(map(request_ms, part)) for part in levels)),
        "help_processor_ms": compared(*([1e3 * start.processor_s for start in part] for part in starts)),
        "help_elapsed_ms": compared(*([1e3 * start.elapsed_s for start in part] for part in starts)),
    }


def show(found: dict[str, dict[str, float]], here: Tree, beside: Tree) -> None:
    table = Table(title=f"{here.commit} beside {beside.commit}")
    for column in ("", "here", "beside", "ratio", "least", "greatest"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in found.items():
        cells = [f"{row[column]:.1f}" for column in ("here", "beside")]
        cells += [f"{row[column]:.3f}" for column in ("ratio", "least", "greatest")]
        table.add_row(name.replace("_", " "), *cells)
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beside", type=Path, required=True, metavar="TREE", help="an older checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--conversations", type=int, default=8, help="in each round")
    parser.add_argument("--edges", type=int, default=4)
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    here, beside = trees = (Tree.at(HERE), Tree.at(arguments.beside))
    starts = measure_starts(trees, arguments.starts)
    levels = measure_requests(trees, arguments.rounds, arguments.conversations, arguments.edges)
    found = figures(levels, starts)
    show(found, here, beside)
    document: dict[str, Any] = {
        "benchmark": "before_after",
        "here": here.commit,
        "beside": beside.commit,
        "rounds": arguments.rounds,
        "conversations": arguments.conversations,
        "edges": arguments.edges,
        "starts": arguments.starts,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        **found,
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
