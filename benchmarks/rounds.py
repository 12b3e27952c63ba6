"""Further looks on large originals with small signs: right answers and bytes with one look, two, three, four.

    python -m benchmarks.rounds [--scenes 40] [--first-seed 500000]

Starts the embedded model's server as a child process; the edge is `EdgeClient`, the bytes are its receipts'.
The scenes are 12,000 pixels wide, their signs a quarter of a cell of the model's map to a whole one
(`scenes.large`); every sign is asked about once, with as many looks as there may be. What fewer looks would
have given is the same conversation up to there: the server asks for the same regions in the same order.
Prints a table and, last, one JSON object. `doubtful` questions are those whose draft led to a look.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from scenes.generator import render
from scenes.large import make_large_scene
from secondglance import EdgeClient, Reply
from secondglance_eval.judging.intervals import Resamples
from secondglance_protocol.protocol import MAX_ROUNDS
from secondglance_server.testing import serving


@dataclass(frozen=True, slots=True)
class Asked:
    """One reading question; `right` and `uplink_bytes` by the number of looks allowed, from none."""

    scene: int
    right: tuple[bool, ...]
    uplink_bytes: tuple[int, ...]
    n_looks: int

    @property
    def is_doubtful(self) -> bool:
        """Whether the draft led to a look."""
        return self.n_looks > 0


def asked(reply: Reply, answer: str, scene: int) -> Asked:
    """Return what each number of looks would have given: the conversation up to there."""
    receipt = reply.receipt
    stages = [receipt.setup, receipt.stage1, receipt.stage2, *receipt.further_looks]
    spent = [0 if stage is None else stage.uplink_bytes for stage in stages][1:]
    answers = [reply.draft_answer, *(look.reply.answer for look in reply.looks)]
    answers += answers[-1:] * (1 + MAX_ROUNDS - len(answers))
    return Asked(
        scene,
        right=tuple(given == answer for given in answers),
        uplink_bytes=tuple(sum(spent[: 1 + rounds]) for rounds in range(1 + MAX_ROUNDS)),
        n_looks=len(reply.looks),
    )


def ask_all(client: EdgeClient, scenes: int, first_seed: int) -> list[Asked]:
    """Ask for what is written on each sign. Raises RuntimeError for a conversation that failed midway."""
    rows = []
    for seed in range(first_seed, first_seed + scenes):
        scene = make_large_scene(seed)
        photo = render(scene)
        for question in scene.questions:
            if question.kind == "read":
                reply = client.ask(photo, question.text, max_rounds=MAX_ROUNDS)
                if reply.degraded:
                    raise RuntimeError(reply.degraded)
                rows.append(asked(reply, question.answer, seed))
    return rows


def summarize(rows: Sequence[Asked]) -> dict[str, Any]:
    """Return shares in percent and bytes by the number of looks; gain and ratio are of the doubtful ones."""
    doubtful = [row for row in rows if row.is_doubtful]
    resamples = Resamples([str(row.scene) for row in doubtful])

    def bytes_with(rounds: int) -> float:
        return statistics.fmean(row.uplink_bytes[rounds] for row in doubtful)

    by_rounds = {}
    for rounds in range(1, 1 + MAX_ROUNDS):
        gained = np.array([float(row.right[rounds]) - row.right[1] for row in doubtful])
        gain = resamples.mean(gained)
        by_rounds[str(rounds)] = {
            "right": round(100 * statistics.fmean(row.right[rounds] for row in rows), 1),
            "doubtful_right": round(100 * statistics.fmean(row.right[rounds] for row in doubtful), 1),
            "gain": round(100 * gain.value, 1),
            "gain_interval": [round(100 * gain.low, 1), round(100 * gain.high, 1)],
            "doubtful_bytes": round(bytes_with(rounds)),
            "bytes_ratio": round(bytes_with(rounds) / bytes_with(1), 3),
        }
    return {
        "questions": len(rows),
        "doubtful": len(doubtful),
        "stage1_right": round(100 * statistics.fmean(row.right[0] for row in rows), 1),
        "by_max_rounds": by_rounds,
    }


def print_table(figures: dict[str, Any]) -> None:
    """Print a row for each number of looks."""
    table = Table(title=f"{figures['questions']} questions, {figures['doubtful']} of them doubtful")
    for column in ("looks", "right", "of the doubtful", "gained", "bytes of the doubtful", "ratio"):
        table.add_column(column, justify="right")
    for rounds, row in figures["by_max_rounds"].items():
        low, high = row["gain_interval"]
        table.add_row(
            rounds,
            f"{row['right']} %",
            f"{row['doubtful_right']} %",
            f"{row['gain']} [{low}, {high}]",
            f"{row['doubtful_bytes']:,}",
            f"{row['bytes_ratio']}",
        )
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=500_000)
    arguments = parser.parse_args()
    started = time.monotonic()
    with serving() as url, EdgeClient(url) as client:
        rows = ask_all(client, arguments.scenes, arguments.first_seed)
    figures = {"scenes": arguments.scenes, **summarize(rows)}
    print_table(figures)
    print(json.dumps({**figures, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
