"""The records of a run as columns, one row for each question, and every method's outcome on those rows.

Put to the server: always-retransmit, the same with other crops, single pictures in other encodings, the
original whole. Computed from always-retransmit's records: global-only (the draft), the pair under any gate
and threshold, the oracle gate; from those with other crops: the same crops where the gate fires, or of as
many questions, whichever. A method without a record for a question has NaN there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secondglance_eval.asking.methods import ALWAYS, ORACLE_CROP
from secondglance_eval.asking.records import Record
from secondglance_eval.judging.gates import GateStatistic, doubts

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class MethodResult:
    """One method on every question: `second` is 1 where a second stage took place."""

    name: str
    score: Floats
    uplink: Floats
    downlink: Floats
    second: Floats

    def only(self, rows: Flags) -> Self:
        """Return the result on those rows."""
        return type(self)(
            self.name, self.score[rows], self.uplink[rows], self.downlink[rows], self.second[rows]
        )


class Study:
    """`always` are the records of always-retransmit, in the order of the rows."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._by_method: dict[str, dict[str, Record]] = {}
        for record in records:
            self._by_method.setdefault(record.method, {})[record.example_id] = record
        self.always: tuple[Record, ...] = tuple(self._by_method.get(ALWAYS, {}).values())

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self._by_method)

    @property
    def image_ids(self) -> list[str]:
        return [record.image_id for record in self.always]

    @property
    def kinds(self) -> NDArray[np.str_]:
        return np.array([record.kind for record in self.always], dtype=np.str_)

    @property
    def draft_scores(self) -> Floats:
        return _column(self.always, lambda record: record.draft_score)

    @property
    def original_bytes(self) -> Floats:
        return _column(self.always, lambda record: record.original_bytes)

    @property
    def text_heights(self) -> Floats:
        """Return the height of what must be read, NaN where nothing is read."""
        return _column(self.always, lambda r: np.nan if r.text_height_px is None else r.text_height_px)

    @property
    def can_look_again(self) -> Flags:
        """Return False where the server found nothing to gain from a second glance."""
        return np.array([record.second is not None for record in self.always], dtype=bool)

    def doubts(self, gate: GateStatistic) -> Floats:
        """Return how doubtful each row's draft is."""
        return doubts([record.tokens for record in self.always], gate)

    def rows_of(self, method: str) -> list[Record | None]:
        """Return the method's records in the order of the rows."""
        records = self._by_method.get(method, {})
        return [records.get(record.example_id) for record in self.always]

    def measured(self, method: str) -> MethodResult:
        """Return a method that was put to the server."""
        rows = self.rows_of(method)
        return MethodResult(
            method,
            _known(rows, lambda record: record.score),
            _known(rows, lambda record: record.uplink_bytes),
            _known(rows, lambda record: record.downlink_bytes),
            _known(rows, lambda record: float(record.second is not None)),
        )

    def gated(self, name: str, chance: Flags | Floats, *, method: str = ALWAYS) -> MethodResult:
        """Return what to expect if each row's second stage took place with that chance: the draft elsewhere.

        `method`: whose second stage; it must have been put to the server whatever the gate said.
        """
        rows = self.rows_of(method)
        looks = np.where(_known(rows, lambda row: float(row.second is not None)), chance, 0.0)
        drafts = _known(rows, lambda row: row.draft_score)
        score = _known(rows, lambda row: row.score)
        offers = _known(rows, lambda row: row.offer_bytes)
        up, up_again = _bytes(rows, "uplink_bytes")
        down, down_again = _bytes(rows, "downlink_bytes")
        return MethodResult(
            name,
            drafts + looks * (score - drafts),
            up + looks * up_again,
            down - (1 - looks) * offers + looks * down_again,
            np.where(np.isnan(score), np.nan, looks),
        )

    def at_the_rate_of(self, pair: MethodResult, method: str, name: str) -> MethodResult:
        """Return as many second stages as the pair's, of any questions: the mean over all draws."""
        rate = pair.second.mean() / max(self.can_look_again.mean(), np.finfo(float).tiny)
        return self.gated(name, np.full(len(self.always), rate), method=method)

    def pair(self, gate: GateStatistic, threshold: float) -> MethodResult:
        """Return the pair under a gate and a threshold."""
        return self.gated("pair", self.doubts(gate) > threshold)

    def global_only(self) -> MethodResult:
        """Return every question's draft."""
        return self.gated("global only", np.zeros(len(self.always), dtype=bool))

    def oracle_gate(self) -> MethodResult:
        """Return a gate that looks again only where the draft is not right."""
        return self.gated("oracle gate", self.draft_scores < 1)

    def oracle_crop(self) -> MethodResult:
        """Return the true crop always, the draft where no place is the true one; NaN if none is known."""
        seen, draft = self.measured(ORACLE_CROP), self.global_only()
        if np.isnan(seen.score).all():
            return seen
        unknown = np.isnan(seen.score) & np.array([record.box is None for record in self.always], dtype=bool)

        return MethodResult(
            "oracle crop",
            np.where(unknown, draft.score, seen.score),
            np.where(unknown, draft.uplink, seen.uplink),
            np.where(unknown, draft.downlink, seen.downlink),
            np.where(unknown, draft.second, seen.second),
        )


def _bytes(rows: Sequence[Record | None], direction: str) -> tuple[Floats, Floats]:
    first = _known(rows, lambda record: getattr(record.first, direction))
    second = _known(rows, lambda record: getattr(record.second, direction) if record.second else 0)
    return first, second


def _column(records: Sequence[Record], value: Callable[[Record], float]) -> Floats:
    return np.array([value(record) for record in records], dtype=np.float64)


def _known(rows: Sequence[Record | None], value: Callable[[Record], float]) -> Floats:
    return np.array([np.nan if row is None else value(row) for row in rows], dtype=np.float64)
