"""`secondglance-eval calibrate`: the records it needs, the file that a server loads, a text for people."""

from __future__ import annotations

import datetime
from pathlib import Path

from secondglance_eval.asking.asker import Asker
from secondglance_eval.asking.methods import ALWAYS, standard_methods
from secondglance_eval.asking.records import RecordWriter, read_records
from secondglance_eval.asking.run import Pace, run
from secondglance_eval.campaign import RECORDS_FILE
from secondglance_eval.datasets.example import Dataset
from secondglance_eval.errors import CalibrationError
from secondglance_eval.facts import FACTS_FILE, Facts
from secondglance_eval.judging.doubt_choice import TestedDoubt, choose_and_test_doubt
from secondglance_eval.judging.gate_choice import (
    LEAST_PICTURES,
    GateChoice,
    Target,
    TargetKind,
    TestedChoice,
    choose_and_test,
    refuse_too_few,
    tried,
)
from secondglance_eval.judging.gates import GateStatistic
from secondglance_eval.judging.intervals import Estimate as Measured
from secondglance_protocol.wire import DefaultGate
from secondglance_server.calibrated_gate import CalibratedGate, Estimate, Provenance
from secondglance_server.engine.model_defaults import LocalizationSection


def one_target(*, or_none: bool = False, **wishes: float | None) -> Target | None:
    """Return the only wish that was made. Raises CalibrationError for none, unless `or_none`, or several."""
    kinds: tuple[TargetKind, ...] = ("max_retransmit", "max_uplink_bytes", "target_accuracy")
    made = [Target(kind, value) for kind in kinds if (value := wishes[kind]) is not None]
    if or_none and not made:
        return None
    if len(made) != 1:
        options = ", ".join(f"--{kind.replace('_', '-')}" for kind in kinds)
        raise CalibrationError(f"exactly one of {options} is needed")
    return made[0]


def refuse_too_few_pictures(dataset: Dataset, out: Path) -> None:
    """Raise CalibrationError, before a server is started, if data set and `out` hold too few pictures."""
    if len(dataset) >= 2 * LEAST_PICTURES:
        return
    pictures = {group[0].image_id for group in dataset}
    if (out / RECORDS_FILE).exists():
        pictures |= {record.image_id for record in read_records(out / RECORDS_FILE)}
    refuse_too_few(len(pictures))


def always_ask(dataset: Dataset, asker: Asker, out: Path, *, pace: Pace) -> None:
    """Ask every question with both stages, whatever the gate says, unless `out` has its record."""
    (always,) = (method for method in standard_methods() if method.name == ALWAYS)
    with RecordWriter(out / RECORDS_FILE) as writer:
        run(dataset, [always], asker, writer, pace=pace)


def calibrate_from(
    out: Path,
    target: Target | None,
    path: Path,
    *,
    precision: float | None = None,
    localization: LocalizationSection | None = None,
) -> tuple[CalibratedGate, str]:
    """Calibrate on the folder's records, write the server's file. Raises CalibrationError, RecordsError.

    Without a target the model keeps the gate that it has. With a precision its doubt threshold is chosen,
    too. `localization` was in force when the records were made. Returns the file's content and a text for
    people.
    """
    if not (out / FACTS_FILE).exists() or not (out / RECORDS_FILE).exists():
        raise CalibrationError(f"{out} holds no records: name a --dataset to collect some")
    facts = Facts.read(out)
    records = [record for record in read_records(out / RECORDS_FILE) if record.method == ALWAYS]
    tested = choose_and_test(records, target) if target else tried(records, _own_gate(facts))
    doubt = None if precision is None else choose_and_test_doubt(records, tested.choice, precision)
    calibration = calibration_of(tested, target, doubt, model=facts.model.name, dataset=facts.dataset)
    calibration = calibration.model_copy(update={"localization": localization})
    write_calibration(calibration, path)
    return calibration, described(tested, target, doubt)


def _own_gate(facts: Facts) -> GateChoice:
    gate = facts.model.gate
    return GateChoice(GateStatistic(gate.metric, gate.aggregate), gate.threshold)


def calibration_of(
    tested: TestedChoice, target: Target | None, doubt: TestedDoubt | None = None, *, model: str, dataset: str
) -> CalibratedGate:
    """Return the server's file; `model` as `/v1/model` names it, `dataset` as it names itself."""
    gate, expected = tested.choice.gate, tested.expected
    wishes: dict[str, float] = {target.kind: target.value} if target else {}
    found = {
        "retransmit_rate": _rounded(expected.retransmit_rate, 4),
        "uplink_bytes": _rounded(expected.uplink_bytes, 1),
        "accuracy": _rounded(expected.accuracy, 4),
    }
    if doubt is not None:
        wishes["precision"] = doubt.wanted
        found |= {"precision": _rounded(doubt.precision, 4), "sure": _rounded(doubt.sure, 4)}
    return CalibratedGate(
        model=model,
        gate=DefaultGate(
            metric=gate.metric,
            aggregate=gate.aggregate,
            threshold=tested.choice.threshold,
            doubt_threshold=None if doubt is None else doubt.threshold,
        ),
        provenance=Provenance(
            dataset=dataset,
            date=datetime.datetime.now(datetime.UTC).date(),
            pictures=tested.pictures,
            questions=tested.questions,
            target=wishes,
        ),
        expected=found,
    )


def write_calibration(calibration: CalibratedGate, path: Path) -> None:
    """Write the file whole or not at all: a server may read it at any time.

    What is not set is left out, so that older servers take the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(calibration.model_dump_json(indent=2, exclude_none=True) + "\n")
    scratch.replace(path)


def described(tested: TestedChoice, target: Target | None, doubt: TestedDoubt | None = None) -> str:
    """Return the choice and what the test showed, as text for people."""
    expected = tested.expected
    lines = [
        f"gate: {tested.choice.gate.name} above {tested.choice.threshold:g}",
        f"of {tested.questions} questions about {tested.pictures} pictures, the half it was not "
        "chosen on, with 95 % intervals:",
        f"  asked again   {expected.retransmit_rate.times(100):.1f} %",
        f"  bytes up      {expected.uplink_bytes:.0f}",
        f"  accuracy      {expected.accuracy.times(100):.1f} %",
    ]
    if target is not None:
        verdict = "reaches" if target.is_met_by(expected) else "MISSES"
        lines.append(f"the interval {verdict} the target: {target.kind.replace('_', ' ')} {target.value:g}")
    if doubt is not None:
        verdict = "reaches" if doubt.is_met else "MISSES"
        lines += [
            f"doubtful: above {doubt.threshold:g}",
            f"  sure answers  {doubt.sure.times(100):.1f} %",
            f"  right of them {doubt.precision.times(100):.1f} %",
            f"the interval {verdict} the precision {doubt.wanted:g}",
        ]
    return "\n".join(lines)


def _rounded(measured: Measured, digits: int) -> Estimate:
    return Estimate(
        mean=round(measured.value, digits), low=round(measured.low, digits), high=round(measured.high, digits)
    )
