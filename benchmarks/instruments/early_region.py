"""The early gate on a slow link: how much sooner is an answer there whose draft has thirty tokens?

    python -m benchmarks.instruments.early_region [--model llava-100m] [--questions 6] [--kbit 256]

A server process with a model of random weights; before it a relay (`lab.relay`) that passes so many kbit/s
each way and delays by 30 ms. One edge sends the region at the draft's first doubtful token, the other after
its last; both ask the same, in turn, each as often first. The threshold is set for each question, from a
draft that was read before: so that the first token is doubtful, and so that only the most doubtful is. The
server keeps no prefix, or the second edge would find the first one's. Prints a table and, last, one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.instruments.models import MODELS
from benchmarks.throughput import KNOWN_WORDS, conversations
from lab.relay.faults import Delay, RateLimit, Schedule
from lab.relay.relay import relaying
from secondglance import EdgeClient, EdgeSettings, Reply
from secondglance_server.testing import serving

_ENVIRONMENT = {
    "SECONDGLANCE_SERVER_PREFIX_CACHE_BYTES": "1",
    "SECONDGLANCE_SERVER_INFERENCE_DEADLINE_S": "300",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, asked by both edges. `doubtful_at`: the first doubtful token, from 1."""

    case: str
    doubtful_at: int
    ms: dict[str, float]
    downlink_bytes: dict[str, int]
    uplink_bytes: dict[str, int]


def thresholds(reply: Reply) -> dict[str, float]:
    """Return the threshold of each case: the first token is doubtful, or only the most doubtful one is."""
    values = [token.min_entropy for token in reply.tokens or ()]
    latest = values.index(max(values))
    return {"first token": 0.0} | ({"latest token": max(values[:latest])} if latest else {})


def measure(url: str, relay_url: str, pictures: Sequence[Image.Image], tokens: int) -> list[Asked]:
    def edge(address: str, *, early: bool = False) -> EdgeClient:
        settings = EdgeSettings(url=address, link_aware=False, remembered_images=0, early_region=early)
        return EdgeClient(settings=settings)

    edges = {"after": edge(relay_url), "early": edge(relay_url, early=True)}
    rows: list[Asked] = []
    for number, picture in enumerate(pictures):
        with edge(url) as near:
            draft = near.ask(
                picture, KNOWN_WORDS[0], mode="answer_only", max_new_tokens=tokens, include=["tokens"]
            )
        values = [token.min_entropy for token in draft.tokens or ()]
        for case, threshold in thresholds(draft).items():
            replies: dict[str, Reply] = {}
            for name in list(edges)[:: 1 if number % 2 else -1]:
                replies[name] = edges[name].ask(
                    picture, KNOWN_WORDS[0], threshold=threshold, max_new_tokens=tokens, strict=True
                )
            one, other = replies.values()
            assert (one.answer, one.roi, one.stage) == (other.answer, other.roi, 2), "both answer the same"
            receipts = {name: reply.receipt for name, reply in replies.items()}
            rows.append(
                Asked(
                    case,
                    next(n for n, value in enumerate(values, 1) if value > threshold),
                    {name: receipt.elapsed_ms for name, receipt in receipts.items()},
                    {name: receipt.downlink_bytes for name, receipt in receipts.items()},
                    {name: receipt.uplink_bytes for name, receipt in receipts.items()},
                )
            )
            print(rows[-1], flush=True)
    return rows


def figures(rows: Sequence[Asked]) -> dict[str, Any]:
    """Medians; `saved_ms` is that of the paired differences."""

    def of(values: Sequence[dict[str, Any]]) -> dict[str, int]:
        return {name: round(statistics.median(each[name] for each in values)) for name in ("after", "early")}

    return {
        "questions": len(rows),
        "doubtful_at": statistics.median(row.doubtful_at for row in rows),
        "ms": of([row.ms for row in rows]),
        "saved_ms": round(statistics.median(row.ms["after"] - row.ms["early"] for row in rows)),
        "uplink_bytes": of([row.uplink_bytes for row in rows]),
        "downlink_bytes": of([row.downlink_bytes for row in rows]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="llava-100m")
    parser.add_argument("--questions", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--kbit", type=float, default=256)
    arguments = parser.parse_args()
    schedule = Schedule(each=(RateLimit(arguments.kbit * 1000 / 8), Delay(0.03)))
    program = ("benchmarks.instruments.serve", arguments.model)
    with serving(program=program, environment=_ENVIRONMENT, ready_timeout_s=600) as url:
        host, port = url.removeprefix("http://").split(":")
        budget = httpx.get(f"{url}/v1/model").json()["image"]
        pictures = [each.original for each in conversations(arguments.questions, budget, words=KNOWN_WORDS)]
        with relaying(host, int(port), schedule=schedule) as relay:
            rows = measure(url, relay.url, pictures, arguments.tokens)
    cases = {case: figures([row for row in rows if row.case == case]) for case in {row.case for row in rows}}
    title = f"{arguments.kbit:g} kbit/s, 60 ms round trip, drafts of {arguments.tokens} tokens; medians"
    table = Table(title=title)
    for column in (
        "doubt",
        "questions",
        "at token",
        "ms, after / early",
        "saved ms",
        "bytes up",
        "bytes down",
    ):
        table.add_column(column, justify="right")
    for case, found in sorted(cases.items()):
        ms, up, down = (
            f"{found[name]['after']:,} / {found[name]['early']:,}"
            for name in ("ms", "uplink_bytes", "downlink_bytes")
        )
        saved = str(found["saved_ms"])
        table.add_row(case, str(found["questions"]), str(found["doubtful_at"]), ms, saved, up, down)
    Console(width=130).print(table)
    print(
        json.dumps({"benchmark": "early_region", "cores": os.cpu_count(), **vars(arguments), "cases": cases})
    )


if __name__ == "__main__":
    main()
