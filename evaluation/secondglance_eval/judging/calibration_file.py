"""What was calibrated, as the file that a server loads and as text for people."""

from __future__ import annotations

import datetime
from pathlib import Path

from secondglance_eval.judging.calibration import Calibrated, Target
from secondglance_eval.judging.intervals import Estimate as Measured
from secondglance_protocol.wire import DefaultGate
from secondglance_server.calibrated_gate import Estimate, GateCalibration, Provenance


def calibration_of(calibrated: Calibrated, target: Target, *, model: str, dataset: str) -> GateCalibration:
    """`model` as `/v1/model` names it, `dataset` as the data set names itself."""
    gate, expected = calibrated.choice.gate, calibrated.expected
    return GateCalibration(
        model=model,
        gate=DefaultGate(metric=gate.metric, aggregate=gate.aggregate, threshold=calibrated.choice.threshold),
        provenance=Provenance(
            dataset=dataset,
            date=datetime.datetime.now(datetime.UTC).date(),
            pictures=calibrated.pictures,
            questions=calibrated.questions,
            target={target.kind: target.value},
        ),
        expected={
            "retransmit_rate": _rounded(expected.retransmit_rate, 4),
            "uplink_bytes": _rounded(expected.uplink_bytes, 1),
            "accuracy": _rounded(expected.accuracy, 4),
        },
    )


def write_calibration(calibration: GateCalibration, path: Path) -> None:
    """Whole or not at all: a server may read it at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(calibration.model_dump_json(indent=2) + "\n")
    scratch.replace(path)


def described(calibrated: Calibrated, target: Target) -> str:
    expected = calibrated.expected
    verdict = "reaches" if target.is_met_by(expected) else "MISSES"
    return "\n".join(
        (
            f"gate: {calibrated.choice.gate.name} above {calibrated.choice.threshold:g}",
            f"of {calibrated.questions} questions about {calibrated.pictures} pictures, the half it was not "
            "chosen on, with 95 % intervals:",
            f"  asked again   {expected.retransmit_rate.times(100):.1f} %",
            f"  bytes up      {expected.uplink_bytes:.0f}",
            f"  accuracy      {expected.accuracy.times(100):.1f} %",
            f"the interval {verdict} the target: {target.kind.replace('_', ' ')} {target.value:g}",
        )
    )


def _rounded(measured: Measured, digits: int) -> Estimate:
    return Estimate(
        mean=round(measured.value, digits), low=round(measured.low, digits), high=round(measured.high, digits)
    )
