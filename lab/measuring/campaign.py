"""Every method on every link, from one place to another: which cells are measured, and in what order.

Knows no kind of place: `lab.places` holds two.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lab.measuring.measure import Warmth
from lab.measuring.methods import METHODS, Method
from lab.places.place import Place
from lab.relay.links import LINKS, WIRE, Link

WARMTHS: tuple[Warmth, ...] = ("cold", "warm")
CampaignRecord: TypeAlias = dict[str, Any]
CellRecord: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `photos` answers a cell, as many as `cell_s` seconds hold, but two at least."""

    photos: int
    cell_s: float = 60.0

    def answers(self, link: Link, expected_bytes: float) -> int:
        """Return how many answers a cell of that link gets."""
        needs_s = link.predicted_s(
            wire_up=expected_bytes, wire_down=3_000, handshakes=1, requests=3, compute_s=0.3
        )
        return max(2, min(self.photos, int(self.cell_s / needs_s)))


def run(place: Place, budget: Budget, photos: Path, kept: Path, say: Callable[[str], None]) -> CampaignRecord:
    """Measure all cells, after one pass that only warms the server up.

    Each is appended to `kept`, and not measured again if it is there: a campaign goes on where it was ended.
    """
    original_bytes = [path.stat().st_size for path in photos.glob("*.jpg")]
    expected = {"original": max(original_bytes), "global-only": 5_000.0, "pair": 25_000.0, "always": 25_000.0}
    place.shape(WIRE)
    idle = json.loads(place.lab("idle", place.interface))
    say(f"idle: {idle}")
    for method in METHODS:
        _measure(place, WIRE, method, "cold", budget.photos, idle)
    cells: list[CellRecord] = (
        [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    )
    done = {(cell["link"], cell["method"], cell["warmth"]) for cell in cells}
    for link, method, warmth in _cells(place):
        if (link.name, method, warmth) in done:
            continue
        started = time.monotonic()
        cells.append(_cell(place, link, method, warmth, budget.answers(link, expected[method]), idle))
        with kept.open("a") as file:
            print(json.dumps(cells[-1]), file=file)
        passed_s = time.monotonic() - started
        say(f"{link.name}, {method}, {warmth}: {len(cells[-1]['samples'])} answers in {passed_s:.0f} s")
    offload = json.loads(place.lab("offload", place.interface, "--only-show"))
    links = [asdict(link) for link in LINKS]
    return {
        "place": place.name,
        "outside": place.outside_name,
        "idle": idle,
        "offload": offload,
        "links": links,
        "cells": cells,
    }


def _cells(place: Place) -> Iterator[tuple[Link, Method, Warmth]]:
    for link in LINKS:
        place.shape(link)
        for method in METHODS:
            for warmth in WARMTHS:
                yield link, method, warmth


def _cell(
    place: Place, link: Link, method: Method, warmth: Warmth, answers: int, idle: dict[str, float]
) -> CellRecord:
    """The samples, and the whole run's traffic as the edge's interface and as the outside saw it."""
    outside, inside = place.outside(), place.inside()
    samples = list(_measure(place, link, method, warmth, answers, idle))
    inside, outside = place.inside() - inside, place.outside() - outside
    return {
        "link": link.name,
        "method": method,
        "warmth": warmth,
        "samples": samples,
        "interface": asdict(inside),
        "outside": asdict(outside),
    }


def _measure(
    place: Place, link: Link, method: Method, warmth: Warmth, answers: int, idle: dict[str, float]
) -> Iterable[dict[str, Any]]:
    lines = place.lab(
        "measure",
        *("--url", f"http://{place.relay_host}:{link.port}"),
        *("--photos", place.photos, "--answers", str(answers)),
        *("--interface", place.interface, "--quiet-s", f"{max(0.2, 2 * link.rtt_s):.3f}"),
        *("--idle-tx", str(idle["tx_bytes_per_s"]), "--idle-rx", str(idle["rx_bytes_per_s"])),
        *(method, warmth),
    )
    return [json.loads(line) for line in lines.splitlines()]
