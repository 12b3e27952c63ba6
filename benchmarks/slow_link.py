"""The link-aware edge against the fixed one on a slow link: when does the answer come, and is it right?

    python -m benchmarks.slow_link [--scenes 30] [--kbit 256] [--out benchmarks/results/slow_link.json]

A server process with the embedded model; before it a relay (lab/relay.py) that passes so many kbit/s each way
and delays by 30 ms. Both edges ask the same reading questions about the same held-out originals, in turn; a
question about another scene comes first, from which the aware edge learns its link. Of the time it is also
said what is left without the server's own, which a busy machine makes noisy. Prints a table and, last, JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from edge_client import EdgeClient, EdgeSettings, Reply
from lab.faults import Delay, RateLimit, Schedule
from lab.relay import relaying
from scenes.photos import originals
from server.child import serving


@dataclass(frozen=True, slots=True)
class Asked:
    """One question; `ms` from `ask` to the answer."""

    is_right: bool
    ms: float
    server_ms: float
    uplink_bytes: int

    @property
    def link_ms(self) -> float:
        return self.ms - self.server_ms


def asked(reply: Reply, answer: str) -> Asked:
    stages = [stage for stage in (reply.first, reply.second) if stage is not None]
    server_ms = sum(sum(stage.timing_ms.model_dump().values()) for stage in stages)
    receipt = reply.receipt
    return Asked(reply.answer == answer, receipt.elapsed_ms, server_ms, receipt.uplink_bytes)


def measure(url: str, seeds: range, questions: int, kbit: float, workers: int) -> dict[str, list[Asked]]:
    schedule = Schedule(each=(RateLimit(kbit * 1000 / 8), Delay(0.03)))
    host, port = url.removeprefix("http://").split(":")
    rows: dict[str, list[Asked]] = {"fixed": [], "aware": []}
    with relaying(host, int(port), schedule=schedule) as relay:
        clients = {
            name: EdgeClient(
                settings=EdgeSettings(url=relay.url, link_aware=name == "aware", remembered_images=0)
            )
            for name in rows
        }
        for count, (scene, jpeg) in enumerate(originals(seeds, workers)):
            reading = [question for question in scene.questions if question.kind == "read"][:questions]
            for question in reading:
                for name, client in clients.items():
                    reply = client.ask(jpeg, question.text)
                    if count > 0:
                        rows[name].append(asked(reply, question.answer))
            print(f"{count}/{len(seeds) - 1} scenes", flush=True)
        rate = clients["aware"].link.uplink_bytes_per_s
    print(f"the aware edge thinks that the link carries {rate or 0:,.0f} bytes a second")
    return rows


def figures(rows: dict[str, list[Asked]]) -> dict[str, float]:
    def mean(name: str, value: Callable[[Asked], float]) -> float:
        return statistics.fmean(value(row) for row in rows[name])

    found: dict[str, float] = {"questions": len(rows["fixed"])}
    for name, asked_ in rows.items():
        found[f"{name}_accuracy"] = round(mean(name, lambda row: row.is_right), 4)
        found[f"{name}_uplink_bytes"] = round(mean(name, lambda row: row.uplink_bytes))
        found[f"{name}_ms"] = round(mean(name, lambda row: row.ms))
        found[f"{name}_ms_median"] = round(statistics.median(row.ms for row in asked_))
        found[f"{name}_link_ms"] = round(mean(name, lambda row: row.link_ms))
    pairs = list(zip(rows["fixed"], rows["aware"], strict=True))
    for key, value in (("ms", lambda row: row.ms), ("link_ms", lambda row: row.link_ms)):
        saved = [value(fixed) - value(aware) for fixed, aware in pairs]
        found[f"saved_{key}"] = round(statistics.fmean(saved))
        found[f"saved_{key}_standard_error"] = round(statistics.stdev(saved) / math.sqrt(len(saved)))
    found["aware_sooner_share"] = round(statistics.fmean(a.link_ms < f.link_ms for f, a in pairs), 3)
    found["only_fixed_right"] = sum(f.is_right and not a.is_right for f, a in pairs)
    found["only_aware_right"] = sum(a.is_right and not f.is_right for f, a in pairs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--questions", type=int, default=4, help="of each scene, at most")
    parser.add_argument("--first-seed", type=int, default=440_000)
    parser.add_argument("--kbit", type=float, default=256)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.scenes + 1)
    with serving(ready_timeout_s=600) as url:
        rows = measure(url, seeds, arguments.questions, arguments.kbit, arguments.workers)
    found = figures(rows)
    table = Table(title=f"{found['questions']} questions at {arguments.kbit:g} kbit/s, 60 ms round trip")
    for column in ("", "fixed", "aware"):
        table.add_column(column, justify="right")
    for key in ("accuracy", "uplink_bytes", "ms", "ms_median", "link_ms"):
        table.add_row(key.replace("_", " "), str(found[f"fixed_{key}"]), str(found[f"aware_{key}"]))
    Console(width=100).print(table)
    terms = {name: getattr(arguments, name) for name in ("kbit", "scenes", "first_seed")}
    document = {**terms, **found}
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
