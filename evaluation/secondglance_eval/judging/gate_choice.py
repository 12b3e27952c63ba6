"""Chooses metric, aggregation and threshold on one half of the pictures, and says what the other half shows.

What a gate would have given is computed from the records of always-retransmit, so one run serves every wish.
Halves are made by picture: questions about one picture are not independent. Knows nothing of files or HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from secondglance_eval.asking.records import Record
from secondglance_eval.errors import CalibrationError
from secondglance_eval.judging.gates import ALL_GATES, GateStatistic
from secondglance_eval.judging.intervals import Estimate, Resamples
from secondglance_eval.judging.study import MethodResult, Study
from secondglance_server.engine.protocol import GateDefaults

Floats = NDArray[np.float64]
TargetKind = Literal["max_retransmit", "max_uplink_bytes", "target_accuracy"]

DEFAULT_GATE = GateStatistic(GateDefaults().metric, GateDefaults().aggregate)
LEAST_PICTURES = 10  # of each half: intervals of fewer mean nothing
TEST_SHARE = 0.5

# Standard errors that the choice stays inside the target. Both halves err, each by about one: with this much
# the test half's 95 % interval reaches the target in 97.5 % of runs, and without it in 92 %.
SAFETY = (np.sqrt(2.0) - 1.0) * 1.96


@dataclass(frozen=True, slots=True)
class Target:
    """At most that share asked again, at most that many bytes up on average, or at least that accuracy."""

    kind: TargetKind
    value: float

    def is_met_by(self, expected: Expected) -> bool:
        """Say whether the test half's interval reaches the target."""
        if self.kind == "target_accuracy":
            return expected.accuracy.high >= self.value
        return expected.of(self.kind).low <= self.value


@dataclass(frozen=True, slots=True)
class GateChoice:
    gate: GateStatistic
    threshold: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What the test half shows for a choice."""

    retransmit_rate: Estimate
    uplink_bytes: Estimate
    accuracy: Estimate

    def of(self, kind: TargetKind) -> Estimate:
        """Return the estimate that a target of that kind is about."""
        return {
            "max_retransmit": self.retransmit_rate,
            "max_uplink_bytes": self.uplink_bytes,
            "target_accuracy": self.accuracy,
        }[kind]


@dataclass(frozen=True, slots=True)
class TestedChoice:
    choice: GateChoice
    expected: Expected
    pictures: int
    questions: int


def choose_and_test(
    records: Sequence[Record], target: Target, *, test_share: float = TEST_SHARE
) -> TestedChoice:
    """Choose on one half of `records` (of always-retransmit), test on the other. Raises CalibrationError."""
    chosen_on, _ = halves(records, test_share)
    return tried(records, choose(Study(chosen_on), target), test_share=test_share)


def tried(records: Sequence[Record], choice: GateChoice, *, test_share: float = TEST_SHARE) -> TestedChoice:
    """Return what a gate that was chosen elsewhere does on the test half. Raises CalibrationError."""
    _, tested_on = halves(records, test_share)
    pictures = len({record.image_id for record in records})
    return TestedChoice(choice, expect(Study(tested_on), choice), pictures, len(records))


class OfPicture(Protocol):
    """A record or a question, which belongs to a picture."""

    @property
    def image_id(self) -> str: ...


_Row = TypeVar("_Row", bound=OfPicture)


def halves(records: Sequence[_Row], test_share: float) -> tuple[list[_Row], list[_Row]]:
    """Return records or questions to choose on and to test on: by picture, whatever their order."""
    pictures = sorted({record.image_id for record in records}, key=_hash)
    n_test = round(test_share * len(pictures))
    refuse_too_few(len(pictures), test_share)
    test = set(pictures[:n_test])
    return (
        [record for record in records if record.image_id not in test],
        [record for record in records if record.image_id in test],
    )


def refuse_too_few(pictures: int, test_share: float = TEST_SHARE) -> None:
    """Raise CalibrationError where one of the halves would be too small to say anything."""
    n_test = round(test_share * pictures)
    if min(n_test, pictures - n_test) < LEAST_PICTURES:
        parts = f"{pictures - n_test} to choose on and {n_test} to test on"
        raise CalibrationError(
            f"too few pictures: {parts}, each part needs {LEAST_PICTURES}; {pictures} of"
            f" {2 * LEAST_PICTURES} are here"
        )


def _hash(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode()).digest()


def expect(study: Study, choice: GateChoice) -> Expected:
    """Return what the study shows for a choice."""
    outcome = study.pair(choice.gate, choice.threshold)
    resamples = Resamples(study.image_ids)
    return Expected(
        retransmit_rate=resamples.mean(outcome.second),
        uplink_bytes=resamples.mean(outcome.uplink),
        accuracy=resamples.mean(outcome.score),
    )


def choose(study: Study, target: Target) -> GateChoice:
    """Return the best gate that stays inside the target. Raises CalibrationError if none does.

    Best: most accurate, or for an accuracy fewest bytes. Gates other than the default must be better by more
    than the standard error of the difference; twelve of them are compared, and one is always lucky.
    """
    choices = [
        GateChoice(gate, t) for gate in ALL_GATES if (t := threshold_for(study, gate, target)) is not None
    ]
    if not choices:
        raise CalibrationError(_out_of_reach(study, target))
    outcomes = {choice: study.pair(choice.gate, choice.threshold) for choice in choices}
    best = max(choices, key=lambda choice: _merit(outcomes[choice], target).mean())
    default = next((choice for choice in choices if choice.gate == DEFAULT_GATE), None)
    if default is None:
        return best
    gain = _merit(outcomes[best], target) - _merit(outcomes[default], target)
    mean, error = _means_and_errors(gain[:, None], study.image_ids)
    return best if mean[0] > error[0] else default


def _merit(outcome: MethodResult, target: Target) -> Floats:
    return -outcome.uplink if target.kind == "target_accuracy" else outcome.score


def threshold_for(study: Study, gate: GateStatistic, target: Target) -> float | None:
    """Return the threshold at which the gate just stays inside the target; None if it never does.

    At most so many second glances or bytes: as many as are allowed. At least that accuracy: as few as do.
    """
    doubt = study.doubts(gate)
    order = np.argsort(-doubt, kind="stable")
    counts = np.flatnonzero(_separable(doubt[order]))
    means, errors = _along(study, order, counts, target)
    if target.kind == "target_accuracy":
        inside = means - SAFETY * errors >= target.value
        picked = int(inside.argmax())
    else:
        inside = means + SAFETY * errors <= target.value
        picked = len(inside) - 1 - int(inside[::-1].argmax())
    return threshold_between(doubt[order], int(counts[picked])) if inside.any() else None


def _separable(descending: Floats) -> NDArray[np.bool_]:
    """[n + 1]: whether a threshold >= 0 makes the first k of the doubts fire and the others not."""
    falls = descending[1:] < descending[:-1]
    last = descending[-1:] > 0  # a threshold of 0 does not fire for a doubt of 0
    return np.concatenate([np.isfinite(descending[:1]), falls, last])


def threshold_between(descending: Floats, count: int) -> float:
    """A threshold for which exactly the first `count` doubts fire, with as few digits as that takes."""
    low = float(descending[count]) if count < len(descending) else 0.0
    high = float(descending[count - 1]) if count > 0 else np.inf
    middle = (low + high) / 2 if np.isfinite(high) else low
    for digits in range(2, 18):
        rounded = float(f"{middle:.{digits}g}")
        if low <= rounded < high:
            return rounded
    return low


def _along(
    study: Study, order: NDArray[np.intp], counts: NDArray[np.intp], target: Target
) -> tuple[Floats, Floats]:
    """The target's quantity and its standard error when the first `counts` of `order` fire."""
    never, always = study.global_only(), study.gated("always", np.ones(len(order), dtype=bool))
    column = {"max_retransmit": "second", "max_uplink_bytes": "uplink", "target_accuracy": "score"}
    before, after = getattr(never, column[target.kind]), getattr(always, column[target.kind])
    images = np.unique(np.asarray(study.image_ids), return_inverse=True)[1]
    steps = np.zeros((int(images.max()) + 1, len(order) + 1))
    steps[images[order], np.arange(1, len(order) + 1)] = (after - before)[order]
    steps[:, 0] = np.bincount(images, weights=before)
    return _ratio(np.cumsum(steps, axis=1)[:, counts], np.bincount(images).astype(np.float64))


def _means_and_errors(values: Floats, image_ids: Sequence[str]) -> tuple[Floats, Floats]:
    """Of every column of `values` [questions, columns]."""
    images = np.unique(np.asarray(image_ids), return_inverse=True)[1]
    sums = np.zeros((int(images.max()) + 1, values.shape[1]))
    np.add.at(sums, images, values)
    return _ratio(sums, np.bincount(images).astype(np.float64))


def _ratio(sums: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """Means over questions and their standard errors from sums [pictures, columns]: pictures are clusters."""
    total = sizes.sum()
    means = sums.sum(axis=0) / total
    rest = sums - means * sizes[:, None]
    scale = len(sizes) / (len(sizes) - 1)
    errors: Floats = np.sqrt(scale * (rest**2).sum(axis=0)) / total
    return means, errors


def _out_of_reach(study: Study, target: Target) -> str:
    """What the records can give instead."""
    rows = len(study.always)
    if target.kind == "target_accuracy":
        always = study.gated("always", np.ones(rows, dtype=bool)).score.mean()
        reached = f"asking always gives {always:.3f}"
    elif target.kind == "max_uplink_bytes":
        reached = f"never asking takes {study.global_only().uplink.mean():.0f}"
    else:
        silent = np.mean([not record.tokens for record in study.always])
        reached = f"drafts without a token, which are always asked again, are {silent:.3f}"
    name = target.kind.replace("_", " ")
    return f"{name} {target.value:g} is out of reach for certain with {rows} questions: {reached}"
