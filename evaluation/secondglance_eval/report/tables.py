"""The report's tables as rows of text, the same for every page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secondglance_eval.judging.curves import GateFigures
from secondglance_eval.judging.gates import GateStatistic
from secondglance_eval.judging.intervals import Estimate
from secondglance_eval.report.comparison import Comparison, MethodLine
from secondglance_eval.report.findings import Findings


@dataclass(frozen=True, slots=True)
class TextTable:
    """`marked`: number of the row that is ours."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None


HEADLINE_NAMES = {
    "pair_vs_always_points": "the pair against always-retransmit, points",
    "uplink_saving_vs_always": "uplink bytes saved against always-retransmit, %",
    "pair_vs_random_crop_points": "the pair against a random crop at the same rate, points",
    "pair_vs_centre_crop_points": "the pair against a centre crop at the same rate, points",
    "pair_vs_blind_random_crop_points": "the same, but of any questions: random crop, points",
    "pair_vs_blind_centre_crop_points": "the same, but of any questions: centre crop, points",
    "pair_vs_equal_bytes_points": "the pair against one picture at equal bytes, points",
    "pair_vs_oracle_points": "the pair against the oracle that sees the true crop, points",
    "bytes_vs_original": "bytes sent, % of the original's",
}
HOW_TO_READ = (
    "Bytes are everything that HTTP puts on the socket for one question asked alone, headers included: the"
    " picture is uploaded anew for every question. Global-only, the pair, every gate and threshold and the"
    " oracle gate are computed from always-retransmit's records, the rest is put to the server. Intervals are"
    " 95 %, by bootstrap over pictures; differences are paired. Random and centre crops are sent where the"
    " gate fires, or, blind to that as well, of as many questions, whichever: the mean over all ways to draw"
    " them. The oracle crop sees the true place of every question that has one, whatever the gate says, and"
    " the draft for the others."
)
_SAME_AREA = 0.0001  # of right answers: less is not shown
_SHARES = ("uplink_saving_vs_always", "bytes_vs_original")


def headline_sets(findings: Findings) -> list[Comparison]:
    """Return all questions, then reading alone."""
    return [findings.all] if findings.reading is None else [findings.all, findings.reading]


def headline_table(comparisons: Sequence[Comparison]) -> TextTable:
    """Return the headline, a column for each set of questions; a figure on fewer of them says so."""
    headlines = [(one.headline(), one.headline_questions()) for one in comparisons]
    rows = []
    for name, label in HEADLINE_NAMES.items():
        factor, digits = (100, 2 if name == "bytes_vs_original" else 1) if name in _SHARES else (1, 1)
        shown = [
            _shown(line[name].times(factor), digits) + (f" (n = {fewer[name]:,})" if name in fewer else "")
            for line, fewer in headlines
        ]
        rows.append((label, *shown))
    head = ("", *(f"{one.title} (n = {one.questions:,})" for one in comparisons))
    return TextTable("Headline", head, tuple(rows))


def methods_table(comparison: Comparison) -> TextTable:
    """Return every method with its accuracy, bytes and number of questions."""
    rows, marked = [], None
    for number, line in enumerate(comparison.lines):
        if line.name == "pair":
            marked = number
        rows.append(
            (
                line.label,
                _shown(line.accuracy.times(100), 1),
                _shown(line.uplink, 0),
                f"{line.downlink:,.0f}",
                f"{100 * line.rate:.0f}",
                "" if line.name == "pair" else _shown(line.pair_ahead.times(100), 1),
                f"{line.questions:,}",
            )
        )
    head = ("method", "right, %", "bytes up", "bytes down", "second stage, %", "pair ahead, points", "n")
    title = f"{comparison.title}: {comparison.questions:,} questions, {comparison.scenes:,} pictures"
    return TextTable(title, head, tuple(rows), marked)


def kinds_table(findings: Findings) -> TextTable:
    """Return the accuracy of a few methods for each kind of question."""
    rows = []
    for part in (*findings.kinds, findings.all):
        lines = {line.name: line for line in part.lines}
        shown = ("global only", "pair", "always", "random_crop", "oracle crop")
        figures = (_share_of(lines.get(name), part.questions) for name in shown)
        rows.append((part.title, f"{part.questions:,}", *figures, f"{100 * lines['pair'].rate:.0f}"))
    head = ("kind", "n", "global only", "pair", "always", "random crop", "oracle crop", "asked again, %")
    return TextTable("By kind of question: right answers, %", head, tuple(rows))


def _share_of(line: MethodLine | None, questions: int) -> str:
    """Return the accuracy; with the number of questions where it is not the row's."""
    if line is None:
        return "-"
    accuracy = f"{100 * line.accuracy.value:.1f}"
    return accuracy if line.questions == questions else f"{accuracy} (n = {line.questions:,})"


def gates_table(title: str, gates: Sequence[GateFigures], default: str) -> TextTable:
    """Return every gate's AUROC and area, the default marked."""
    rows = tuple(
        (
            one.gate.name.replace("_", "-") + (" (default)" if one.gate.name == default else ""),
            _shown(one.auroc, 3),
            _shown(one.area.times(100), 2),
        )
        for one in gates
    )
    marked = next((i for i, one in enumerate(gates) if one.gate.name == default), None)
    head = ("gate", "AUROC of a wrong draft", "mean accuracy over the bytes, %")
    return TextTable(title, head, rows, marked)


def gates_sentence(gates: Sequence[GateFigures], default_gate: GateStatistic) -> str:
    """Say which gate is best, and what the default loses against it; `gates` has the largest area first."""
    best = gates[0]
    default = next(one for one in gates if one.gate == default_gate)
    if best.gate == default.gate:
        return f"The default, {default.gate.name}, has the largest area."
    if best.area.value - default.area.value < _SAME_AREA:
        return (
            f"The largest area has {best.gate.name}, by less than 0.01 points over the default,"
            f" {default.gate.name}."
        )
    return (
        f"The largest area has {best.gate.name} ({_shown(best.area.times(100), 2)}); the default,"
        f" {default.gate.name}, has {_shown(default.area.times(100), 2)}."
    )


def encodings_table(findings: Findings) -> TextTable | None:
    """Return the encodings that were tried at equal bytes; None where none was chosen."""
    if findings.chosen is None:
        return None
    rows = tuple(
        (one.view.name, f"{100 * one.accuracy:.1f}", f"{one.uplink_bytes:,.0f}")
        for one in findings.chosen.tried
    )
    title = f"Single pictures at {findings.chosen.pair_bytes:,.0f} bytes, on the pictures of the choice"
    return TextTable(title, ("encoding and size", "right, %", "bytes up"), rows)


def latency_table(findings: Findings) -> TextTable:
    """Return median and 95th percentile of each stage."""
    rows = tuple(
        (one.what, f"{one.questions:,}", f"{one.median_ms:.0f}", f"{one.p95_ms:.0f}")
        for one in findings.latencies
    )
    title = "Latency at the edge over loopback, one question at a time"
    return TextTable(title, ("", "n", "median ms", "95th percentile ms"), rows)


def check_sentence(findings: Findings) -> str:
    """Say how far the computed pair and the asked one agree."""
    check = findings.check
    return (
        "The pair is computed from always-retransmit's records. Asked over the wire as it comes,"
        f" {check.questions:,} questions gave the same answer in {check.same_answer:,} cases and the same"
        f" stage in {check.same_stage:,}; the largest difference in uplink bytes was"
        f" {check.largest_uplink_difference}."
    )


def facts_sentence(findings: Findings) -> str:
    """Say what was measured, on what, and when."""
    facts = findings.facts
    gate = facts.model.gate
    measured = findings.all.scenes
    pictures = f"{measured:,}" if measured == facts.pictures else f"{measured:,} of {facts.pictures:,}"
    weights = f" (weights {facts.weights[:12]})" if facts.weights else ""
    return (
        f"{facts.dataset}: {pictures} pictures, {findings.all.questions:,} questions."
        f" Model {facts.model.name}{weights}, gate {gate.metric} {gate.aggregate} > {gate.threshold:g}."
        f" {facts.date}, commit {facts.commit or 'unknown'}, {facts.machine}, {facts.cores} cores."
    )


def left_out_sentence(findings: Findings) -> str:
    """Name the pictures that no result is taken from."""
    names = findings.facts.left_out
    return (
        f"Left out of all results: {len(names)} pictures, on which the encodings for one picture at equal"
        f" bytes were chosen: {', '.join(names)}."
    )


def _shown(value: Estimate, digits: int) -> str:
    return format(value, f",.{digits}f")
