"""What a campaign's record says: tables in Markdown, a plot that reconciles the layers, and the promise.

The promise is that frames add 3 to 10 % to what the client counted, in answers that send more than 100 kB.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.campaign import Record
from lab.links import LINKS, WIRE, Link

PROMISED_OVERHEAD = (0.03, 0.10)
_LARGE_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Row:
    """One cell in numbers: mean uplink bytes at four layers, both times in seconds."""

    link: str
    method: str
    warmth: str
    answers: int
    body: float
    http: float
    wire: float
    outside: float
    http_down: float
    wire_down: float
    p50_s: float
    p95_s: float
    predicted_p50_s: float

    @property
    def overhead(self) -> float:
        """What frames add to the client's count."""
        return self.wire / self.http - 1


def rows(record: Record) -> list[Row]:
    compute = dict(_compute_times(record))
    links = {link.name: link for link in LINKS}
    return [_row(cell, links[cell["link"]], compute) for cell in record["cells"]]


def large_overheads(record: Record) -> list[float]:
    """Of each answer that sent more than 100 kB."""
    costs = [(s["wire_up"], s["cost"]["http_up"]) for cell in record["cells"] for s in cell["samples"]]
    return [wire / http - 1 for wire, http in costs if http > _LARGE_BYTES]


def is_promise_kept(record: Record) -> bool:
    low, high = PROMISED_OVERHEAD
    return all(low <= overhead <= high for overhead in large_overheads(record))


def publish(record: Record, folder: Path, name: str) -> int:
    """Write record, tables and plot, print the tables; 1 if the promise is broken, else 0."""
    from lab.plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record))
    overheads = large_overheads(record)
    kept = is_promise_kept(record)
    spread = f"{min(overheads):.2%} to {max(overheads):.2%}" if overheads else "none sent"
    text = "\n\n".join(
        (
            f"## {record['place'].capitalize()}",
            _conditions(record),
            layers_table(rows(record)),
            times_table(rows(record)),
            f"Frames add to the client's count, in {len(overheads)} answers over 100 kB: {spread}"
            f" ({'as' if kept else 'NOT as'} promised).",
        )
    )
    (folder / f"{name}.md").write_text(text + "\n")
    draw(rows(record), folder / f"{name}.png")
    print(text)
    print(json.dumps({"place": record["place"], "overheads": [round(o, 5) for o in overheads], "kept": kept}))
    return 0 if kept else 1


def layers_table(table: list[Row]) -> str:
    """Uplink bytes of each method on the unshaped wire: they depend on the link only through chance."""
    columns = (
        "method, connection, answers, body, HTTP, interface, outside, frames add, HTTP down, interface down"
    )
    lines = _head(columns)
    for row in table:
        if row.link == WIRE.name:
            layers = (row.body, row.http, row.wire, row.outside)
            cells = [row.method, row.warmth, str(row.answers), *(f"{layer:,.0f}" for layer in layers)]
            cells += [f"{row.overhead:.1%}", f"{row.http_down:,.0f}", f"{row.wire_down:,.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def times_table(table: list[Row]) -> str:
    columns = (
        "link, method, connection, answers, HTTP up, interface up, p50, p95, model p50, measured / model"
    )
    lines = _head(columns)
    for row in table:
        cells = [row.link, row.method, row.warmth, str(row.answers), f"{row.http:,.0f}", f"{row.wire:,.0f}"]
        cells += [_seconds(time) for time in (row.p50_s, row.p95_s, row.predicted_p50_s)]
        cells.append("" if row.link == WIRE.name else f"{row.p50_s / row.predicted_p50_s:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _head(columns: str) -> list[str]:
    names = columns.split(", ")
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _conditions(record: Record) -> str:
    idle, offload = record["idle"], [name for name, on in record["offload"].items() if on]
    return (
        f"Idle traffic subtracted: {idle['tx_bytes_per_s']:.1f} B/s up, {idle['rx_bytes_per_s']:.1f} down."
        f" Segmentation offload: {', '.join(offload) + ' ON' if offload else 'off'}."
        f" Outside: {record['outside']}."
    )


def _compute_times(record: Record) -> Iterator[tuple[tuple[str, str, str], float]]:
    """What each answer took on the unshaped wire: (method, warmth, photo) -> seconds."""
    for cell in record["cells"]:
        if cell["link"] == WIRE.name:
            for sample in cell["samples"]:
                yield (cell["method"], cell["warmth"], sample["photo"]), sample["cost"]["elapsed_s"]


def _row(cell: Record, link: Link, compute: dict[tuple[str, str, str], float]) -> Row:
    samples = cell["samples"]
    times = [sample["cost"]["elapsed_s"] for sample in samples]
    predicted = [
        link.predicted_s(
            wire_up=sample["wire_up"],
            wire_down=sample["wire_down"],
            handshakes=sample["handshakes"],
            requests=sample["cost"]["requests"],
            compute_s=compute[cell["method"], cell["warmth"], sample["photo"]],
        )
        for sample in samples
    ]
    wire = _mean(sample["wire_up"] for sample in samples)
    unsampled = cell["interface"]["tx_bytes"] - wire * len(samples)  # priming a warm connection, idle traffic
    return Row(
        link=link.name,
        method=cell["method"],
        warmth=cell["warmth"],
        answers=len(samples),
        body=_mean(sample["cost"]["body_up"] for sample in samples),
        http=_mean(sample["cost"]["http_up"] for sample in samples),
        wire=wire,
        outside=(cell["outside"]["tx_bytes"] - unsampled) / len(samples),
        http_down=_mean(sample["cost"]["http_down"] for sample in samples),
        wire_down=_mean(sample["wire_down"] for sample in samples),
        p50_s=statistics.median(times),
        p95_s=_percentile(times, 95),
        predicted_p50_s=statistics.median(predicted),
    )


def _mean(values: Iterable[Any]) -> float:
    return statistics.fmean(values)


def _percentile(values: list[float], percent: int) -> float:
    """Nearest rank: the largest of a few."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:,.0f} ms"
