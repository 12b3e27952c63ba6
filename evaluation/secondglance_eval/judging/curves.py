"""What a gate gives at every threshold: accuracy against bytes, the area under it, how well it tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondglance_eval.judging.gates import ALL_GATES, GateStatistic
from secondglance_eval.judging.intervals import Estimate, Resamples, estimate, weighted_auroc
from secondglance_eval.judging.study import Study

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Point k: the k most doubtful questions are looked at again. `thresholds[k]` is the gate's there."""

    thresholds: Floats
    accuracy: Floats
    uplink: Floats
    rate: Floats


@dataclass(frozen=True, slots=True)
class GateFigures:
    """`auroc`: the chance that a wrong draft is more doubtful than a right one. `area`: mean accuracy
    between global-only's and always-retransmit's bytes."""

    gate: GateStatistic
    auroc: Estimate
    area: Estimate


def curve(study: Study, gate: GateStatistic) -> Curve:
    """Return accuracy and mean uplink bytes at every threshold, from global-only to always-retransmit."""
    doubt = study.doubts(gate)
    order = np.argsort(-doubt, kind="stable")
    ones = np.ones((1, len(order)))
    accuracy, uplink, rate = _paths(study, order, ones)
    falls = np.concatenate([[True], np.diff(doubt[order]) < 0, [True]])  # a threshold parts no ties
    # fire for k questions: the threshold lies at the next one's doubt
    thresholds = np.concatenate([doubt[order], [0.0]])
    return Curve(thresholds[falls], accuracy[0][falls], uplink[0][falls], rate[0][falls])


def compare_gates(study: Study, resamples: Resamples) -> list[GateFigures]:
    """Return the figures of every metric and aggregation, the largest area first."""
    weights = resamples.question_weights
    wrong = study.draft_scores < 1
    figures = []
    for gate in ALL_GATES:
        doubt = study.doubts(gate)
        order = np.argsort(-doubt, kind="stable")
        figures.append(
            GateFigures(
                gate,
                auroc=estimate(weighted_auroc(doubt, wrong, weights)),
                area=estimate(_areas(study, order, weights)),
            )
        )
    return sorted(figures, key=lambda one: -one.area.value)


def _areas(study: Study, order: NDArray[np.intp], weights: Floats) -> Floats:
    accuracy, uplink, _ = _paths(study, order, weights)
    span = uplink[:, -1] - uplink[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        areas: Floats = np.trapezoid(accuracy, uplink, axis=1) / span
    return areas


def _paths(study: Study, order: NDArray[np.intp], weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Accuracy, mean uplink and rate after 0, 1, ... n questions of `order` were looked at again.

    `weights` [rows, n] -> three of [rows, n + 1].
    """
    never = study.global_only()
    always = study.gated("always", np.ones(len(order), dtype=bool))
    weighted, total = weights[:, order], weights.sum(axis=1, keepdims=True)

    def along(before: Floats, after: Floats) -> Floats:
        start = (weights @ before)[:, None]
        steps = np.cumsum(weighted * (after - before)[order], axis=1)
        path: Floats = np.concatenate([start, start + steps], axis=1) / total
        return path

    return (
        along(never.score, always.score),
        along(never.uplink, always.uplink),
        along(never.second, always.second),
    )
