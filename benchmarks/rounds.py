"""Further looks: right answers and bytes with one look, two, three, four.

    python -m benchmarks.rounds [--scenes 40] [--first-seed 500000] [--of large] [--rows out/rounds.jsonl]

Starts the embedded model's server as a child process; the edge is `EdgeClient`, the bytes are its receipts'.
`large` scenes are 12,000 pixels wide, their signs a quarter of a cell of the model's map to a whole one
(`scenes.large`), and every sign is asked about once; `usual` ones are the held-out scenes with all their
questions. Each is asked with as many looks as there may be. What fewer looks would have given is the same
conversation up to there: the server asks for the same regions in the same order. Scenes already in `--rows`
are not asked again, so a run may be interrupted. Prints a table and, last, one JSON object. `doubtful`
questions are those whose draft led to a look; `all_gain` and `all_bytes_ratio` are of all questions.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.codecs import read_rows
from scenes.generator import Scene, render
from scenes.large import make_large_scene
from secondglance import EdgeClient, Reply
from secondglance_eval.datasets.held_out import scene_of
from secondglance_eval.judging.intervals import Resamples
from secondglance_protocol.protocol import MAX_ROUNDS
from secondglance_server.testing import serving


@dataclass(frozen=True, slots=True)
class Asked:
    """One question; `right` and `uplink_bytes` by the number of looks allowed, from none."""

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


SCENES: dict[str, Callable[[int], Scene]] = {"large": make_large_scene, "usual": scene_of}


def ask_all(client: EdgeClient, make: Callable[[int], Scene], seeds: Sequence[int]) -> Iterator[list[Asked]]:
    """Yield the questions of each scene; of large ones those that read. Raises RuntimeError for a
    conversation that failed midway."""
    for seed in seeds:
        scene = make(seed)
        photo = render(scene)
        rows = []
        for question in scene.questions:
            if question.kind == "read" or make is not make_large_scene:
                reply = client.ask(photo, question.text, max_rounds=MAX_ROUNDS)
                if reply.degraded:
                    raise RuntimeError(reply.degraded)
                rows.append(asked(reply, question.answer, seed))
        yield rows


def summarize(rows: Sequence[Asked]) -> dict[str, Any]:
    """Return shares in percent and bytes by the number of looks; gain and ratio are of the doubtful ones."""
    doubtful = [row for row in rows if row.is_doubtful]
    resamples = Resamples([str(row.scene) for row in doubtful])

    def bytes_with(rounds: int) -> float:
        return statistics.fmean(row.uplink_bytes[rounds] for row in doubtful)

    everything = Resamples([str(row.scene) for row in rows])
    by_rounds = {}
    for rounds in range(1, 1 + MAX_ROUNDS):
        gained = np.array([float(row.right[rounds]) - row.right[1] for row in doubtful])
        gain = resamples.mean(gained)
        all_gain = everything.mean(np.array([float(row.right[rounds]) - row.right[1] for row in rows]))
        by_rounds[str(rounds)] = {
            "right": round(100 * statistics.fmean(row.right[rounds] for row in rows), 1),
            "doubtful_right": round(100 * statistics.fmean(row.right[rounds] for row in doubtful), 1),
            "gain": round(100 * gain.value, 1),
            "gain_interval": [round(100 * gain.low, 1), round(100 * gain.high, 1)],
            "doubtful_bytes": round(bytes_with(rounds)),
            "bytes_ratio": round(bytes_with(rounds) / bytes_with(1), 3),
            "all_gain": round(100 * all_gain.value, 2),
            "all_gain_interval": [round(100 * all_gain.low, 2), round(100 * all_gain.high, 2)],
            "all_bytes_ratio": round(
                sum(row.uplink_bytes[rounds] for row in rows) / sum(row.uplink_bytes[1] for row in rows), 4
            ),
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
    names = ("looks", "right", "of the doubtful", "gained", "bytes of the doubtful", "ratio", "ratio of all")
    for column in names:
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
            f"{row['all_bytes_ratio']}",
        )
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=500_000)
    parser.add_argument("--of", choices=sorted(SCENES), default="large")
    parser.add_argument("--rows", type=pathlib.Path, help="keep the questions here, and go on from them")
    arguments = parser.parse_args()
    started = time.monotonic()
    kept = read_rows(arguments.rows) if arguments.rows else []
    rows = [Asked(**row) for row in kept]
    done = {row.scene for row in rows}
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.scenes)
    with serving() as url, EdgeClient(url) as client:
        for found in ask_all(client, SCENES[arguments.of], [seed for seed in seeds if seed not in done]):
            rows += found
            if arguments.rows:
                with arguments.rows.open("a") as file:
                    file.writelines(json.dumps(asdict(row)) + "\n" for row in found)
    figures = {"scenes": len({row.scene for row in rows}), **summarize(rows)}
    print_table(figures)
    print(json.dumps({**figures, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
