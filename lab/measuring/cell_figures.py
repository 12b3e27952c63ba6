"""A campaign's record in figures: the bytes of each cell at four layers, its times, and the promise.

The promise is that frames add 3 to 10 % to what the client counted, in answers that send more than 100 kB.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.measuring.campaign import CampaignRecord, CellRecord
from lab.relay.links import LINKS, WIRE, Link

PROMISED_OVERHEAD = (0.03, 0.10)
_LARGE_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class CellFigures:
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
        """Return what frames add to the client's count, as a share."""
        return self.wire / self.http - 1


def rows(record: CampaignRecord) -> list[CellFigures]:
    """Return the figures of every cell, in the order in which they were measured."""
    compute = dict(_compute_times(record))
    links = {link.name: link for link in LINKS}
    return [_row(cell, links[cell["link"]], compute) for cell in record["cells"]]


def large_overheads(record: CampaignRecord) -> list[float]:
    """Return what frames add to the client's count, for each answer that sent more than 100 kB."""
    costs = [(s["wire_up"], s["cost"]["http_up"]) for cell in record["cells"] for s in cell["samples"]]
    return [wire / http - 1 for wire, http in costs if http > _LARGE_BYTES]


def is_promise_kept(record: CampaignRecord) -> bool:
    """Say whether every large answer's overhead lies in the promised range."""
    low, high = PROMISED_OVERHEAD
    return all(low <= overhead <= high for overhead in large_overheads(record))


def _compute_times(record: CampaignRecord) -> Iterator[tuple[tuple[str, str, str], float]]:
    """What each answer took on the unshaped wire: (method, warmth, photo) -> seconds."""
    for cell in record["cells"]:
        if cell["link"] == WIRE.name:
            for sample in cell["samples"]:
                yield (cell["method"], cell["warmth"], sample["photo"]), sample["cost"]["elapsed_s"]


def _row(cell: CellRecord, link: Link, compute: dict[tuple[str, str, str], float]) -> CellFigures:
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
    return CellFigures(
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
        p95_s=float(np.quantile(times, 0.95, method="inverted_cdf")),
        predicted_p50_s=statistics.median(predicted),
    )


def _mean(values: Iterable[Any]) -> float:
    return statistics.fmean(values)
