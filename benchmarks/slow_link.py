"""The link-aware edge against the fixed one on a slow link: when does the answer come, and is it right?

    python -m benchmarks.slow_link [--scenes 14] [--kbit 256] [--out benchmarks/results/slow_link_256.json]
                                   [--docs docs/network.md]

A server process with the embedded model; before it a relay (`lab.relay`) that passes so many kbit/s each way
and delays by 30 ms. Both edges ask the same questions, all of each held-out scene, one after the other, each
as often first; the server keeps no prefix of a picture, or the second would find the first one's. Questions
about another scene come before, from which the aware edge learns its link. Intervals are by bootstrap over
scenes. Of the time it is also said what is left without the server's own, which a busy machine makes noisy.

Times are measured here. What the chosen encodings lose is not: some hundred questions would not show a point.
It is taken from `secondglance/link/measured_encodings.json`, for the pairs of encodings that the aware edge
chose here, as often as it chose them. Prints tables and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.instruments.marked import put_between
from benchmarks.instruments.photos import originals
from benchmarks.ladder import IMAGES, PATCHES
from lab.relay.faults import Delay, RateLimit, Schedule
from lab.relay.relay import relaying
from secondglance import EdgeClient, EdgeSettings, Hooks, Reply
from secondglance.conversation.steps import Send
from secondglance.link.encoding_choice import EncodingChoice
from secondglance.link.measured_encodings import MEASURED_FILE
from secondglance_eval.judging.intervals import Resamples
from secondglance_eval.markdown import markdown_table
from secondglance_server.testing import serving

_NO_CACHE = {"SECONDGLANCE_SERVER_PREFIX_CACHE_BYTES": "1"}
_WIDTH = 1.96  # standard errors on each side of a 95 % interval


@dataclass(frozen=True, slots=True)
class Asked:
    """One question; `ms` from `ask` to the answer. `pair` is how picture and region are encoded."""

    seed: int  # of the scene
    kind: str
    is_right: bool
    stages: int
    ms: float
    server_ms: float
    uplink_bytes: int
    pair: str
    thought_bytes_per_s: float  # by the edge, when it had the answer

    @property
    def link_ms(self) -> float:
        return self.ms - self.server_ms


class Edge:
    """A client, and what it chose: asked of the same figures at the moment of sending."""

    def __init__(self, url: str, *, link_aware: bool) -> None:
        settings = EdgeSettings(url=url, link_aware=link_aware, remembered_images=0)
        self.client = EdgeClient(settings=settings, hooks=Hooks(on_request=self._note))
        self._recipes = EncodingChoice(settings, self.client.link)
        self._image, self._patch = "", ""

    def _note(self, send: Send) -> None:
        """A region's encoding is named even where none is asked for: the one that would have been sent."""
        if send.stage == "stage1":
            chosen = self._recipes.for_image()
            self._image = next(name for name, way in IMAGES.items() if _same(way, chosen))
        patch = next(iter(self._recipes.for_patch()))
        self._patch = next(name for name, way in PATCHES.items() if way.quality == patch.quality)

    def ask(self, seed: int, jpeg: bytes, question: Any) -> Asked:
        reply = self.client.ask(jpeg, question.text)
        receipt = reply.receipt
        return Asked(
            seed,
            question.kind,
            reply.answer == question.answer,
            reply.stage,
            receipt.elapsed_ms,
            _server_ms(reply),
            receipt.uplink_bytes,
            f"{self._image} / {self._patch}",
            self.client.link.uplink_bytes_per_s or 0.0,
        )


def _same(way: Any, chosen: Any) -> bool:
    return bool(way[0].quality == chosen[0].quality and way[1] == chosen[1])


def _server_ms(reply: Reply) -> float:
    stages = [stage for stage in (reply.first, reply.second) if stage is not None]
    return sum(sum(stage.timing_ms.model_dump().values()) for stage in stages)


def measure(url: str, seeds: range, kbit: float, workers: int) -> dict[str, list[Asked]]:
    schedule = Schedule(each=(RateLimit(kbit * 1000 / 8), Delay(0.03)))
    host, port = url.removeprefix("http://").split(":")
    rows: dict[str, list[Asked]] = {"fixed": [], "aware": []}
    with relaying(host, int(port), schedule=schedule) as relay:
        edges = {name: Edge(relay.url, link_aware=name == "aware") for name in rows}
        for count, (scene, jpeg) in enumerate(originals(seeds, workers)):
            for number, question in enumerate(scene.questions):
                for name in list(edges)[:: 1 if number % 2 else -1]:
                    asked = edges[name].ask(scene.seed, jpeg, question)
                    if count > 0:
                        rows[name].append(asked)
            print(f"{count}/{len(seeds) - 1} scenes, {len(rows['fixed'])} questions", flush=True)
    return rows


def figures(rows: dict[str, list[Asked]]) -> dict[str, Any]:
    def mean(name: str, value: Callable[[Asked], float]) -> float:
        return statistics.fmean(value(row) for row in rows[name])

    found: dict[str, Any] = {"questions": len(rows["fixed"])}
    for name, asked in rows.items():
        found[f"{name}_accuracy"] = round(mean(name, lambda row: row.is_right), 4)
        found[f"{name}_second_glances"] = round(mean(name, lambda row: row.stages == 2), 4)
        found[f"{name}_uplink_bytes"] = round(mean(name, lambda row: row.uplink_bytes))
        found[f"{name}_ms"] = round(mean(name, lambda row: row.ms))
        found[f"{name}_ms_median"] = round(statistics.median(row.ms for row in asked))
        found[f"{name}_link_ms"] = round(mean(name, lambda row: row.link_ms))
    for key, value in (("ms", lambda row: row.ms), ("link_ms", lambda row: row.link_ms)):
        found[f"saved_{key}"] = saved(rows["fixed"], rows["aware"], value)
    return found


def saved(
    fixed: Sequence[Asked], aware: Sequence[Asked], value: Callable[[Asked], float]
) -> dict[str, float]:
    """Mean and 95 % interval of the paired differences; the questions about one scene are not independent."""
    one, other = (np.array([value(row) for row in asked]) for asked in (fixed, aware))
    found = Resamples([str(row.seed) for row in fixed]).difference(one, other)
    return {"mean": round(found.value, 1), "low": round(found.low, 1), "high": round(found.high, 1)}


def loss(chosen: Counter[str], ladder: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Points that the chosen pairs lose, with a 95 % interval, by the ladder's measurement.

    Pairs share questions, so their errors are added as if they were one.
    """
    shares = {pair: count / chosen.total() for pair, count in chosen.items()}
    points, error = (
        sum(share * ladder["pairs"][pair][prefix + name] for pair, share in shares.items())
        for name in ("points_lost", "standard_error")
    )
    bounds = {"mean": points, "low": points - _WIDTH * error, "high": points + _WIDTH * error}
    return {name: round(value, 2) for name, value in bounds.items()}


def described(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = []
    for kinds, part in found.items():
        ms, link_ms = (
            f"{part[key]['mean']:.0f} [{part[key]['low']:.0f}, {part[key]['high']:.0f}]"
            for key in ("saved_ms", "saved_link_ms")
        )
        lost = part["points_lost"]
        rows.append(
            [
                kinds,
                str(part["questions"]),
                f"{part['fixed_uplink_bytes']:,} / {part['aware_uplink_bytes']:,}",
                f"{part['fixed_ms']:,} / {part['aware_ms']:,}",
                ms,
                link_ms,
                f"{lost['mean']:+.2f} [{lost['low']:+.2f}, {lost['high']:+.2f}]",
            ]
        )
    return rows


_COLUMNS = (
    "",
    "questions",
    "bytes up, fixed / aware",
    "ms, fixed / aware",
    "saved ms",
    "without the server's time",
    "points lost",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=14)
    parser.add_argument("--first-seed", type=int, default=440_000)
    parser.add_argument("--kbit", type=float, default=256)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--docs", type=pathlib.Path)
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.scenes + 1)
    with serving(environment=_NO_CACHE, ready_timeout_s=600) as url:
        rows = measure(url, seeds, arguments.kbit, arguments.workers)
    ladder = json.loads(MEASURED_FILE.read_text())
    chosen = Counter(row.pair for row in rows["aware"])
    reading = {name: [row for row in asked if row.kind == "read"] for name, asked in rows.items()}
    found = {"all questions": figures(rows), "reading": figures(reading)}
    found["all questions"]["points_lost"] = loss(chosen, ladder)
    found["reading"]["points_lost"] = loss(
        Counter(row.pair for row in reading["aware"]), ladder, prefix="reading_"
    )
    thought = statistics.median(row.thought_bytes_per_s for row in rows["aware"])
    document = {
        **{name: getattr(arguments, name) for name in ("kbit", "scenes", "first_seed")},
        "thought_kbit": round(thought * 8 / 1000),
        "chosen": dict(chosen.most_common()),
        "ladder_questions": ladder["questions"],
        "ladder_reading": ladder["reading"],
        **found,
    }
    table = Table(title=f"{arguments.kbit:g} kbit/s, 60 ms round trip; 95 % intervals")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for cells in described(found):
        table.add_row(*cells)
    Console(width=130).print(table)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.docs:
        choices = ", ".join(f"{pair} {count} times" for pair, count in chosen.most_common())
        about = (
            f"The aware edge took its link for {document['thought_kbit']} kbit/s (median) and chose "
            f"(picture / region) {choices}."
        )
        text = f"{markdown_table(_COLUMNS, described(found))}\n\n{about}"
        put_between(arguments.docs, f"slow link {arguments.kbit:g}", text)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
