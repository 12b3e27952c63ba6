"""Everything that a report says, computed once; pages and plots only show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secondglance_eval.asking.equal_bytes import Chosen, load_choice
from secondglance_eval.asking.methods import ALWAYS, PAIR
from secondglance_eval.asking.records import Record, read_records
from secondglance_eval.campaign import CASES_FOLDER, CHOICE_FILE, RECORDS_FILE, cases_of
from secondglance_eval.errors import RecordsError
from secondglance_eval.facts import Facts
from secondglance_eval.judging.cases import Case
from secondglance_eval.judging.curves import GateFigures, compare_gates
from secondglance_eval.report.comparison import Comparison

READING = "read"  # the kind of question
READING_TITLE = "reading alone"


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and 95th percentile in milliseconds, asked one by one."""

    what: str
    questions: int
    median_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Check:
    """The pair over the wire next to the pair computed from always-retransmit."""

    questions: int
    same_answer: int
    same_stage: int
    largest_uplink_difference: int


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """`all` is the headline's set of questions; `kinds` has each kind on its own, reading first."""

    facts: Facts
    all: Comparison
    kinds: tuple[Comparison, ...]
    gates: tuple[GateFigures, ...]
    gates_reading: tuple[GateFigures, ...]
    latencies: tuple[Latency, ...]
    check: Check
    chosen: Chosen | None
    cases: tuple[Case, ...]
    folder: Path

    @property
    def reading(self) -> Comparison | None:
        return next((one for one in self.kinds if one.title == READING_TITLE), None)

    @property
    def case_pictures(self) -> Path:
        return self.folder / CASES_FOLDER


def find(folder: Path) -> Findings:
    """Return what the folder of a run says. Raises RecordsError."""
    facts = Facts.read(folder)
    records = _records(folder / RECORDS_FILE)
    everything = Comparison("all questions", records, facts.model.gate)
    kinds = sorted({record.kind for record in records}, key=lambda kind: (kind != READING, kind))
    parts = tuple(
        Comparison(
            READING_TITLE if kind == READING else kind,
            [record for record in records if record.kind == kind],
            facts.model.gate,
        )
        for kind in kinds
    )
    choice = folder / CHOICE_FILE
    pair = [record for record in records if record.method == PAIR]
    reading = next((part for part in parts if part.title == READING_TITLE), None)
    return Findings(
        facts,
        everything,
        parts,
        tuple(compare_gates(everything.study, everything.resamples)),
        tuple(compare_gates(reading.study, reading.resamples)) if reading else (),
        tuple(_latencies(pair)),
        _check(everything, pair),
        load_choice(choice) if choice.exists() else None,
        tuple(cases_of(everything.study, facts.model)),
        folder,
    )


def _records(path: Path) -> list[Record]:
    """Return the records; a report needs at least one question that was asked under always-retransmit."""
    records = list(read_records(path)) if path.exists() else []
    if not any(record.method == ALWAYS for record in records):
        raise RecordsError(f"{path} holds no records yet: `secondglance-eval run` collects them")
    return records


def _latencies(pair: Sequence[Record]) -> list[Latency]:
    first_of_picture = list({record.image_id: record for record in reversed(pair)}.values())
    later = [record for record in pair if record not in first_of_picture]
    groups = {
        "stage 1, first question about a picture": [r.first.elapsed_ms for r in first_of_picture],
        "stage 1, further questions (prefix held)": [r.first.elapsed_ms for r in later],
        "stage 2": [r.second.elapsed_ms for r in pair if r.second],
    }
    return [
        Latency(what, len(times), float(np.median(times)), float(np.quantile(times, 0.95)))
        for what, times in groups.items()
        if times
    ]


def _check(everything: Comparison, pair: Sequence[Record]) -> Check:
    rows = {record.example_id: index for index, record in enumerate(everything.study.always)}
    computed = everything.pair
    same_answer = same_stage = largest = 0
    for record in pair:
        row = rows[record.example_id]
        always = everything.study.always[row]
        answer = always.answer if computed.second[row] else always.draft_answer
        same_answer += answer == record.answer
        same_stage += bool(computed.second[row]) == (record.stage == 2)
        largest = max(largest, abs(round(computed.uplink[row]) - record.uplink_bytes))
    return Check(len(pair), same_answer, same_stage, largest)
