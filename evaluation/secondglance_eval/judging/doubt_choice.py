"""Chooses the doubt threshold: answers at or below it are right as often as was wished.

A gate says what comes of each question: the draft, or the second answer. The threshold is chosen on one half
of the pictures and tested on the other, as the gate itself is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondglance_eval.asking.records import Record
from secondglance_eval.errors import CalibrationError
from secondglance_eval.judging.gate_choice import (
    SAFETY,
    TEST_SHARE,
    Floats,
    GateChoice,
    halves,
    threshold_between,
)
from secondglance_eval.judging.gates import doubts
from secondglance_eval.judging.intervals import Estimate, Resamples
from secondglance_eval.judging.study import Study

LEAST_SURE = 20  # answers; fewer say nothing about how often such answers are right


@dataclass(frozen=True, slots=True)
class TestedDoubt:
    """What the test half shows: how often sure answers are right, and how many answers are sure."""

    wanted: float
    threshold: float
    precision: Estimate
    sure: Estimate

    @property
    def is_met(self) -> bool:
        """Say whether the test half's interval reaches the wish."""
        return self.precision.high >= self.wanted


def choose_and_test_doubt(
    records: Sequence[Record], choice: GateChoice, wanted: float, *, test_share: float = TEST_SHARE
) -> TestedDoubt:
    """Choose on one half of `records` (of always-retransmit), test on the other. Raises CalibrationError."""
    chosen_on, tested_on = halves(records, test_share)
    threshold = doubt_threshold(Study(chosen_on), choice, wanted)
    study = Study(tested_on)
    values, scores = final_answers(study, choice)
    is_sure = (values <= threshold).astype(np.float64)
    resamples = Resamples(study.image_ids)
    return TestedDoubt(wanted, threshold, resamples.ratio(scores * is_sure, is_sure), resamples.mean(is_sure))


def final_answers(study: Study, choice: GateChoice) -> tuple[Floats, Floats]:
    """Return the gate's value and the score of what each question's user gets.

    Raises CalibrationError for records that do not hold the second answers' tokens.
    """
    if any(row.second is not None and row.final_tokens is None for row in study.always):
        raise CalibrationError("these records lack the tokens of second answers: collect others (--out)")
    drafts = study.doubts(choice.gate)
    second = doubts([row.final_tokens or () for row in study.always], choice.gate)
    looks_again = (drafts > choice.threshold) & study.can_look_again
    outcome = study.pair(choice.gate, choice.threshold)
    return np.where(looks_again, second, drafts), outcome.score


def doubt_threshold(study: Study, choice: GateChoice, wanted: float) -> float:
    """Return the highest threshold whose sure answers are right often enough, beyond chance.

    Raises CalibrationError if there is none.
    """
    values, scores = final_answers(study, choice)
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    ends = np.append(ascending[:-1] < ascending[1:], True) & np.isfinite(ascending)
    counts = np.flatnonzero(ends) + 1
    counts = counts[counts >= LEAST_SURE]
    images = np.unique(np.asarray(study.image_ids), return_inverse=True)[1]
    found = [_precision(scores[order[:n]], images[order[:n]]) for n in counts.tolist()]
    inside = [n for n, (mean, error) in zip(counts, found, strict=True) if mean - SAFETY * error >= wanted]
    if not inside:
        best = max((mean for mean, _ in found), default=float("nan"))
        raise CalibrationError(
            f"precision {wanted:g} is out of reach for certain with {len(values)} questions: of the surest"
            f" {LEAST_SURE} or more at most {best:.3f} are right"
        )
    return threshold_between(ascending[::-1], len(values) - int(inside[-1]))


def _precision(scores: Floats, images: NDArray[np.intp]) -> tuple[float, float]:
    """Return the mean score and its standard error; pictures are clusters of unequal size."""
    right, sizes = np.bincount(images, weights=scores), np.bincount(images)
    present = sizes > 0
    right, sizes = right[present], sizes[present]
    mean = right.sum() / sizes.sum()
    if len(sizes) < 2:
        return float(mean), float("inf")
    scale = len(sizes) / (len(sizes) - 1)
    return float(mean), float(np.sqrt(scale * ((right - mean * sizes) ** 2).sum()) / sizes.sum())
