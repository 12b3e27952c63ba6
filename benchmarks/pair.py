"""The pair over real HTTP on held-out scenes: accuracy of stage one alone and of the pair, and what was sent.

    python -m benchmarks.pair [--scenes 200] [--first-seed 10000]

Starts the embedded model's server as a child process; the edge is `EdgeClient`, the bytes are its receipts'.
Every scene is an original of up to 16 megapixels saved as a JPEG; every sign on it is asked about. Prints a
table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.instruments.photos import originals
from secondglance import EdgeClient
from secondglance_server.testing import serving


@dataclass(frozen=True, slots=True)
class Asked:
    """One reading question over the wire."""

    right_first: bool
    right: bool
    stage: int
    degraded: bool
    uplink_stage1: int
    uplink_stage2: int
    original_bytes: int
    ms_stage1: float
    ms_stage2: float


def ask_all(client: EdgeClient, scenes: int, first_seed: int, workers: int) -> list[Asked]:
    rows = []
    for scene, jpeg in originals(range(first_seed, first_seed + scenes), workers):
        for question in scene.questions:
            if question.kind != "read":
                continue
            reply = client.ask(jpeg, question.text)
            second = reply.receipt.stage2
            rows.append(
                Asked(
                    right_first=reply.draft_answer == question.answer,
                    right=reply.answer == question.answer,
                    stage=reply.stage,
                    degraded=reply.degraded is not None,
                    uplink_stage1=reply.receipt.stage1.uplink_bytes,
                    uplink_stage2=second.uplink_bytes if second else 0,
                    original_bytes=len(jpeg),
                    ms_stage1=reply.receipt.stage1.elapsed_ms,
                    ms_stage2=second.elapsed_ms if second else 0.0,
                )
            )
    return rows


def summarize(rows: list[Asked], scenes: int) -> dict[str, float]:
    def mean(name: str) -> float:
        return statistics.fmean(float(getattr(row, name)) for row in rows)

    uplink = mean("uplink_stage1") + mean("uplink_stage2")
    return {
        "scenes": scenes,
        "questions": len(rows),
        "accuracy_stage1": round(mean("right_first"), 4),
        "accuracy_pair": round(mean("right"), 4),
        "retransmission_rate": round(statistics.fmean(row.stage == 2 for row in rows), 4),
        "degraded": sum(row.degraded for row in rows),
        "uplink_bytes_mean": round(uplink, 1),
        "uplink_bytes_stage1_mean": round(mean("uplink_stage1"), 1),
        "uplink_bytes_stage2_mean": round(mean("uplink_stage2"), 1),
        "original_bytes_mean": round(mean("original_bytes"), 1),
        "original_over_uplink": round(mean("original_bytes") / uplink, 1),
    }


def print_table(rows: list[Asked], figures: dict[str, float]) -> None:
    second = [row.ms_stage2 for row in rows if row.ms_stage2]
    table = Table(
        title=f"{figures['questions']} questions about {figures['scenes']} held-out scenes, over HTTP"
    )
    for column in ("", "stage 1 alone", "stage 2", "pair"):
        table.add_column(column, justify="right")
    table.add_row("accuracy", f"{figures['accuracy_stage1']:.3f}", "", f"{figures['accuracy_pair']:.3f}")
    table.add_row(
        "mean uplink bytes",
        f"{figures['uplink_bytes_stage1_mean']:.0f}",
        f"{figures['uplink_bytes_stage2_mean']:.0f}",
        f"{figures['uplink_bytes_mean']:.0f}",
    )
    table.add_row(
        "median ms",
        f"{statistics.median(row.ms_stage1 for row in rows):.0f}",
        f"{statistics.median(second) if second else 0:.0f}",
        "",
    )
    Console(width=100).print(table)
    original, ratio = figures["original_bytes_mean"], figures["original_over_uplink"]
    print(f"the original JPEGs: {original:.0f} bytes on average, {ratio} times as much")
    machine = platform.processor() or platform.machine()
    print(f"asked for a second glance: {figures['retransmission_rate']:.1%} of the questions; {machine}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    started = time.monotonic()
    with serving() as url, EdgeClient(url) as client:
        rows = ask_all(client, arguments.scenes, arguments.first_seed, arguments.workers)
    figures = summarize(rows, arguments.scenes)
    print_table(rows, figures)
    print(json.dumps({**figures, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
