"""What each rung of the edge's ladder costs and loses: the pair's accuracy and bytes for each encoding.

    python -m benchmarks.ladder [--scenes 60] [--first-seed 430000] [--out benchmarks/results/ladder.json]
                                [--rows out/ladder.jsonl]

Through the product: `EdgeClient`, a server process with the embedded model, HTTP on loopback. Every rung is
asked the same questions about the same held-out originals, so differences are paired; they are given in
points below the fixed settings, with the standard error of that difference. Bytes are of the pictures alone.
Scenes that `--rows` already has are not asked again. `edge_client/ladder.py` copies the figures. Prints a
table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_client import EdgeClient, EdgeSettings, Hooks
from edge_client.steps import Send
from scenes.photos import originals
from server.child import serving

RUNGS: dict[str, dict[str, Any]] = {
    "webp 50/85": {"format": "webp", "image_quality": 50, "patch_quality": 85},
    "webp 50/50": {"format": "webp", "image_quality": 50, "patch_quality": 50},
    "webp 30/30": {"format": "webp", "image_quality": 30, "patch_quality": 30},
    "webp 50/50 at 3/4": {"format": "webp", "image_quality": 50, "patch_quality": 50, "image_scale": 0.75},
}
FIXED = "webp 50/85"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question on one rung; `patch_bytes` 0 where the server wanted none."""

    is_right: bool
    image_bytes: int
    patch_bytes: int


class Rung:
    """A client of its own, which sees the bytes of the pictures that it sends."""

    def __init__(self, url: str, settings: dict[str, Any]) -> None:
        self._sent: dict[str, int] = {}
        hooks = Hooks(on_request=self._note)
        # remembered_images: each question is a first one
        self.client = EdgeClient(settings=EdgeSettings(url=url, remembered_images=0, **settings), hooks=hooks)

    def _note(self, send: Send) -> None:
        for part in send.parts:
            if not part.name.endswith(".json"):
                self._sent[send.stage] = len(part.data)

    def ask(self, jpeg: bytes, question: str, answer: str) -> Asked:
        self._sent.clear()
        reply = self.client.ask(jpeg, question)
        return Asked(reply.answer == answer, self._sent["stage1"], self._sent.get("stage2", 0))


def questions(scene: Any) -> Iterator[Any]:
    """All that are read, and one of each other kind."""
    seen: set[str] = set()
    for question in scene.questions:
        if question.kind == "read" or question.kind not in seen:
            seen.add(question.kind)
            yield question


def measure(url: str, seeds: Sequence[int], rows: pathlib.Path, workers: int) -> None:
    """Ask about the scenes of `seeds`; one line a scene."""
    rungs = {name: Rung(url, settings) for name, settings in RUNGS.items()}
    for scene, jpeg in originals(seeds, workers):
        asked: dict[str, list[tuple[bool, int, int]]] = {name: [] for name in rungs}
        for question in questions(scene):
            for name, rung in rungs.items():
                asked[name].append(astuple(rung.ask(jpeg, question.text, question.answer)))
        with rows.open("a") as file:
            file.write(json.dumps({"seed": scene.seed, "rungs": asked}) + "\n")


def done(rows: pathlib.Path) -> dict[int, dict[str, list[Asked]]]:
    """Scenes that were asked about, by seed."""
    if not rows.exists():
        return {}
    lines = map(json.loads, rows.read_text().splitlines())
    return {
        line["seed"]: {name: [Asked(*row) for row in asked] for name, asked in line["rungs"].items()}
        for line in lines
    }


def figures(rows: dict[str, list[Asked]]) -> dict[str, dict[str, float]]:
    right = {name: [row.is_right for row in asked] for name, asked in rows.items()}
    fixed = right[FIXED]
    return {
        name: {
            "accuracy": round(statistics.fmean(right[name]), 4),
            "points_lost": round(100 * _lost(fixed, right[name]), 2),
            "standard_error": round(100 * _error(fixed, right[name]), 2),
            "image_bytes": round(statistics.fmean(row.image_bytes for row in asked)),
            "patch_bytes": round(statistics.fmean(row.patch_bytes for row in asked if row.patch_bytes)),
            "second_glances": round(statistics.fmean(row.patch_bytes > 0 for row in asked), 4),
        }
        for name, asked in rows.items()
    }


def _lost(fixed: Sequence[bool], other: Sequence[bool]) -> float:
    return statistics.fmean(fixed) - statistics.fmean(other)


def _error(fixed: Sequence[bool], other: Sequence[bool]) -> float:
    differences = [int(a) - int(b) for a, b in zip(fixed, other, strict=True)]
    return statistics.pstdev(differences) / math.sqrt(len(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--first-seed", type=int, default=430_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--rows", type=pathlib.Path, default=pathlib.Path("out/ladder.jsonl"))
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.scenes)
    arguments.rows.parent.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if seed not in done(arguments.rows)]
    if missing:
        with serving(ready_timeout_s=600) as url:
            measure(url, missing, arguments.rows, arguments.workers)
    kept = [scene for seed, scene in done(arguments.rows).items() if seed in seeds]
    rows = {name: [row for scene in kept for row in scene[name]] for name in RUNGS}
    found = figures(rows)
    table = Table(title=f"{len(rows[FIXED])} questions about {arguments.scenes} held-out scenes")
    table.add_column("image/patch")
    names = next(iter(found.values())).keys()
    for column in names:
        table.add_column(column.replace("_", " "), justify="right")
    for name, row in found.items():
        table.add_row(name, *(str(row[column]) for column in names))
    Console(width=120).print(table)
    document = {
        "scenes": arguments.scenes,
        "first_seed": arguments.first_seed,
        "questions": len(rows[FIXED]),
        "rungs": found,
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
