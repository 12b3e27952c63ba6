"""Every method next to the pair, on one set of questions, with intervals; and the headline figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from secondglance_eval.asking.methods import ALWAYS, CENTRE_CROP, GLOBAL_PREFIX, ORIGINAL_WHOLE, RANDOM_CROP
from secondglance_eval.asking.records import Record
from secondglance_eval.judging.gates import GateStatistic
from secondglance_eval.judging.intervals import Estimate, Resamples
from secondglance_eval.judging.study import MethodResult, Study
from secondglance_protocol.wire import DefaultGate


@dataclass(frozen=True, slots=True)
class MethodLine:
    """One method: means over the questions that it was measured on (`questions`).

    `pair_ahead`: the pair's accuracy less this one's, on those questions.
    """

    name: str
    label: str
    questions: int
    accuracy: Estimate
    uplink: Estimate
    downlink: float
    rate: float
    pair_ahead: Estimate


class Comparison:
    """All methods on the questions of `records`, under the model's own gate."""

    def __init__(self, title: str, records: Iterable[Record], gate: DefaultGate) -> None:
        self.title = title
        self.study = Study(records)
        self.gate, self.threshold = GateStatistic(gate.metric, gate.aggregate), gate.threshold
        self.resamples = Resamples(self.study.image_ids)
        self.pair = self.study.pair(self.gate, self.threshold)
        self.always = self.study.measured(ALWAYS)
        # the pair's second stages, but elsewhere; and as many of any questions: blind to when, too
        self.random, self.centre = (
            self.study.gated(crop, self.pair.second, method=crop) for crop in (RANDOM_CROP, CENTRE_CROP)
        )
        self.blind_random, self.blind_centre = (
            self.study.at_the_rate_of(self.pair, crop, f"blind {crop}") for crop in (RANDOM_CROP, CENTRE_CROP)
        )
        self.singles = self._singles()
        self.equal_bytes = self._equal_bytes()
        self.lines = tuple(self._line(outcome, label) for outcome, label in self._outcomes())

    @property
    def questions(self) -> int:
        return len(self.study.always)

    @property
    def scenes(self) -> int:
        return len(set(self.study.image_ids))

    def headline(self) -> dict[str, Estimate]:
        """Return the figures that promises are made about; points are percentage points of accuracy."""

        def ahead_of(other: MethodResult) -> Estimate:
            return self.resamples.difference(self.pair.score, other.score).times(100)

        cost = self.resamples.ratio(self.pair.uplink, self.always.uplink)
        return {  # scripts read them in this order
            "pair_vs_always_points": ahead_of(self.always),
            "uplink_saving_vs_always": Estimate(1 - cost.value, 1 - cost.high, 1 - cost.low),
            **{name: ahead_of(other) for name, other in self._rivals().items()},
            "bytes_vs_original": self.resamples.ratio(self.pair.uplink, self.study.original_bytes),
            **{name: ahead_of(other) for name, other in self._blind_rivals().items()},
        }

    def headline_questions(self) -> dict[str, int]:
        """Return on how many questions a figure of the headline rests, where that is not all of them."""
        rivals = self._rivals() | self._blind_rivals()
        measured = {name: int((~np.isnan(other.score)).sum()) for name, other in rivals.items()}
        return {name: count for name, count in measured.items() if count < self.questions}

    def _rivals(self) -> dict[str, MethodResult]:
        """Return what the pair is compared with beside `always`, by the headline's name for it."""
        return {
            "pair_vs_random_crop_points": self.random,
            "pair_vs_centre_crop_points": self.centre,
            "pair_vs_equal_bytes_points": self.equal_bytes,
            "pair_vs_oracle_points": self.study.oracle_crop(),
        }

    def _blind_rivals(self) -> dict[str, MethodResult]:
        return {
            "pair_vs_blind_random_crop_points": self.blind_random,
            "pair_vs_blind_centre_crop_points": self.blind_centre,
        }

    def _singles(self) -> list[MethodResult]:
        """Single pictures in other encodings, fewest bytes first."""
        names = [name for name in self.study.methods if name.startswith(GLOBAL_PREFIX)]
        return sorted(map(self.study.measured, names), key=lambda one: float(np.nanmean(one.uplink)))

    def _equal_bytes(self) -> MethodResult:
        """The best single picture: the edge's own, others up to the first that takes the pair's bytes."""
        candidates = [self.study.global_only()]
        for single in self.singles:
            if np.isnan(single.score).any():
                continue  # was put to some pictures only
            candidates.append(single)
            if single.uplink.mean() >= self.pair.uplink.mean():
                break
        return max(candidates, key=lambda one: float(one.score.mean()))

    def _outcomes(self) -> list[tuple[MethodResult, str]]:
        study = self.study
        found = [
            (study.global_only(), _marked("global image only", study.global_only(), self.equal_bytes)),
            (self.pair, "the pair"),
            (self.always, "always retransmit"),
            (self.random, "random crop where the gate fires"),
            (self.centre, "centre crop where the gate fires"),
            (self.blind_random, "random crop of as many questions, whichever"),
            (self.blind_centre, "centre crop of as many questions, whichever"),
            (study.oracle_gate(), "oracle gate: only where the draft is wrong"),
            (study.oracle_crop(), "oracle crop: the true place, always"),
            (study.measured(ORIGINAL_WHOLE), "original uploaded whole"),
        ]
        singles = [(one, _single_label(one, self.equal_bytes)) for one in self.singles]
        return [(one, label) for one, label in found + singles if not np.isnan(one.score).all()]

    def _line(self, outcome: MethodResult, label: str) -> MethodLine:
        questions = int((~np.isnan(outcome.score)).sum())
        if questions < self.questions:
            label += f", on {questions:,} of {self.questions:,} questions"
        return MethodLine(
            outcome.name,
            label,
            questions,
            self.resamples.mean(outcome.score),
            self.resamples.mean(outcome.uplink),
            float(np.nanmean(outcome.downlink)),
            float(np.nanmean(outcome.second)),
            self.resamples.difference(self.pair.score, outcome.score),
        )


def _single_label(outcome: MethodResult, equal_bytes: MethodResult) -> str:
    return _marked(f"one picture, {outcome.name.removeprefix(GLOBAL_PREFIX)}", outcome, equal_bytes)


def _marked(label: str, outcome: MethodResult, equal_bytes: MethodResult) -> str:
    return f"{label} (best at equal bytes)" if outcome.name == equal_bytes.name else label
