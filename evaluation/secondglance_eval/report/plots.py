"""The report's plots. Each draws one comparison into the given axes and decides nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, get_args

import numpy as np

from secondglance_eval.asking.methods import ALWAYS, CENTRE_CROP, ORIGINAL_WHOLE, RANDOM_CROP
from secondglance_eval.judging.curves import curve
from secondglance_eval.judging.gates import GateStatistic
from secondglance_eval.judging.study import MethodResult
from secondglance_eval.report.comparison import Comparison, MethodLine
from secondglance_eval.report.theme import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, Theme
from secondglance_protocol.wire import Metric

_METRIC_COLORS: dict[Metric, str] = dict(zip(get_args(Metric), (BLUE, ORANGE, GREEN), strict=True))
_METRIC_NAMES: dict[Metric, str] = {
    "min_entropy": "min-entropy",
    "shannon": "Shannon entropy",
    "margin": "margin",
}
_POINTS = {
    "global only": ("o", "global image only"),
    "pair": ("*", "the pair"),
    ALWAYS: ("s", "always retransmit"),
    RANDOM_CROP: ("v", "random crop"),
    CENTRE_CROP: ("^", "centre crop"),
    "oracle gate": ("P", "oracle gate"),
    "oracle crop": ("D", "oracle crop"),
}
_HEIGHT_EDGES = (2.0, 3.0, 4.0, 5.0, 6.5, 9.0, 13.0, 22.5)
_LEAST_DOUBT = 1e-4  # nats; smaller ones are drawn there


def accuracy_against_bytes(axes: Any, comparison: Comparison, theme: Theme) -> None:
    """Draw every method, and the gate at every threshold, for each metric."""
    for metric, color in _METRIC_COLORS.items():
        line = curve(comparison.study, GateStatistic(metric, comparison.gate.aggregate))
        label = f"any threshold: {_METRIC_NAMES[metric]}"
        axes.plot(line.uplink / 1000, 100 * line.accuracy, color=color, lw=1.6, label=label)
    lines = {line.name: line for line in comparison.lines}
    singles = [lines[one.name] for one in comparison.singles if one.name in lines]
    axes.errorbar(
        [line.uplink.value / 1000 for line in singles],
        [100 * line.accuracy.value for line in singles],
        color=theme.faint,
        fmt="x",
        ms=6,
        label="one picture, otherwise encoded",
    )
    for name, (marker, label) in _POINTS.items():
        if name in lines:
            _point(axes, lines[name], marker, label, theme)
    axes.set(xlabel="mean uplink per question, kB (headers included)", ylabel="right answers, %")
    axes.figure.legend(loc="outside lower center", ncols=2, columnspacing=1.0)


def gate_roc(axes: Any, comparison: Comparison, theme: Theme) -> None:
    """Draw how well each metric tells wrong drafts from right ones."""
    wrong = comparison.study.draft_scores < 1
    for metric, color in _METRIC_COLORS.items():
        doubt = comparison.study.doubts(GateStatistic(metric, comparison.gate.aggregate))
        order = np.argsort(-doubt, kind="stable")
        caught = np.concatenate([[0], np.cumsum(wrong[order])]) / max(1, wrong.sum())
        disturbed = np.concatenate([[0], np.cumsum(~wrong[order])]) / max(1, (~wrong).sum())
        axes.plot(100 * disturbed, 100 * caught, color=color, lw=1.6, label=_METRIC_NAMES[metric])
    axes.plot([0, 100], [0, 100], color=theme.faint, lw=1, ls=":")
    fires = comparison.study.doubts(comparison.gate) > comparison.threshold
    axes.plot(
        100 * fires[~wrong].mean() if (~wrong).any() else 0,
        100 * fires[wrong].mean() if wrong.any() else 0,
        marker="*",
        ms=14,
        color=RED,
        ls="",
        label=f"default: {comparison.gate.name} > {comparison.threshold:g}",
    )
    axes.set(xlabel="right drafts that are asked again, %", ylabel="wrong drafts that are asked again, %")
    axes.legend(loc="lower right")


def doubt_histogram(axes: Any, comparison: Comparison, theme: Theme) -> None:
    """Draw the default gate's value for right and for wrong drafts."""
    doubt = np.clip(comparison.study.doubts(comparison.gate), _LEAST_DOUBT, None)
    wrong = comparison.study.draft_scores < 1
    finite = np.isfinite(doubt)
    edges = np.geomspace(_LEAST_DOUBT, max(1.0, float(doubt[finite].max(initial=1.0))), 41)
    for rows, color, label in ((~wrong, BLUE, "right drafts"), (wrong, RED, "wrong drafts")):
        axes.hist(doubt[rows & finite], edges, color=color, alpha=0.6, label=f"{label} ({rows.sum():,})")
    axes.axvline(comparison.threshold, color=theme.ink, lw=1.2, ls="--", label="threshold")
    axes.set(xscale="log", xlabel=f"{comparison.gate.name} of the draft, nats", ylabel="questions")
    axes.figure.legend(loc="outside lower center", ncols=3, columnspacing=1.0)


def accuracy_by_height(axes: Any, comparison: Comparison, theme: Theme) -> None:
    """Draw right answers by the height of what must be read, in the global view."""
    heights = comparison.study.text_heights
    shown: tuple[tuple[MethodResult, str, str], ...] = (
        (comparison.study.oracle_crop(), GREEN, "oracle crop"),
        (comparison.always, SKY, "always retransmit"),
        (comparison.pair, RED, "the pair"),
        (comparison.equal_bytes, theme.faint, "one picture at equal bytes"),
        (comparison.study.global_only(), BLUE, "global image only"),
        (comparison.random, PURPLE, "random crop"),
    )
    bands = list(pairwise(_HEIGHT_EDGES))
    for outcome, color, label in shown:
        if np.isnan(outcome.score).all():
            continue
        middles, means = [], []
        for low, high in bands:
            rows = (heights >= low) & (heights < high) & ~np.isnan(outcome.score)
            if rows.any():
                middles.append((low * high) ** 0.5)
                means.append(100 * outcome.score[rows].mean())
        axes.plot(middles, means, marker="o", ms=4, lw=1.6, color=color, label=label)
    axes.set(xscale="log", xlabel="height of the capitals in the global view, px", ylabel="right answers, %")
    axes.set_xticks(list(_HEIGHT_EDGES), [f"{edge:g}" for edge in _HEIGHT_EDGES])
    axes.minorticks_off()
    axes.set_ylim(-2, 102)
    axes.figure.legend(loc="outside lower center", ncols=2, columnspacing=1.0)


def whole_note(comparison: Comparison) -> str | None:
    """Say where the original whole lies, which is off the plot."""
    line = next((one for one in comparison.lines if one.name == ORIGINAL_WHOLE), None)
    if line is None:
        return None
    accuracy, size = 100 * line.accuracy.value, line.uplink.value / 1000
    return f"Off the right edge: the original uploaded whole, {accuracy:.1f} % at {size:,.0f} kB."


def _point(axes: Any, line: MethodLine, marker: str, label: str, theme: Theme) -> None:
    accuracy = line.accuracy
    is_pair = line.name == "pair"
    axes.errorbar(
        line.uplink.value / 1000,
        100 * accuracy.value,
        yerr=[[100 * (accuracy.value - accuracy.low)], [100 * (accuracy.high - accuracy.value)]],
        fmt=marker,
        ms=13 if is_pair else 7,
        color=RED if is_pair else theme.ink,
        elinewidth=1,
        capsize=2,
        label=label,
        zorder=4 if is_pair else 3,
    )
