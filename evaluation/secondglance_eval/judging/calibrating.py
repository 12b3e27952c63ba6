"""`secondglance-eval calibrate`: the records that it needs, and from them the file that a server loads."""

from __future__ import annotations

from pathlib import Path

from secondglance_eval.asking.asking import Asker
from secondglance_eval.asking.methods import ALWAYS, standard_methods
from secondglance_eval.asking.records import RecordWriter, read_records
from secondglance_eval.asking.run import Pace, run
from secondglance_eval.campaign import RECORDS_FILE
from secondglance_eval.datasets.example import Dataset
from secondglance_eval.facts import FACTS_FILE, Facts
from secondglance_eval.judging.calibration import Calibrated, CalibrationError, Target, TargetKind, calibrate
from secondglance_eval.judging.calibration_file import calibration_of, described, write_calibration
from secondglance_server.calibrated_gate import GateCalibration


def one_target(**wishes: float | None) -> Target:
    """The only wish that was made, by its name. Raises CalibrationError for none or several."""
    kinds: tuple[TargetKind, ...] = ("max_retransmit", "max_uplink_bytes", "target_accuracy")
    made = [Target(kind, value) for kind in kinds if (value := wishes[kind]) is not None]
    if len(made) != 1:
        options = ", ".join(f"--{kind.replace('_', '-')}" for kind in kinds)
        raise CalibrationError(f"exactly one of {options} is needed")
    return made[0]


def always_ask(dataset: Dataset, asker: Asker, out: Path, *, pace: Pace) -> None:
    """Every question with both stages, whatever the gate says; what is in `out` is not asked again."""
    (always,) = (method for method in standard_methods() if method.name == ALWAYS)
    with RecordWriter(out / RECORDS_FILE) as writer:
        run(dataset, [always], asker, writer, pace=pace)


def calibrate_from(out: Path, target: Target, path: Path) -> tuple[GateCalibration, str]:
    """Calibrates on the folder's records and writes the server's file. Raises CalibrationError, RecordsError.

    Returns the file's content and a text for people.
    """
    if not (out / FACTS_FILE).exists() or not (out / RECORDS_FILE).exists():
        raise CalibrationError(f"{out} holds no records: name a --dataset to collect some")
    facts = Facts.read(out)
    records = [record for record in read_records(out / RECORDS_FILE) if record.method == ALWAYS]
    calibrated: Calibrated = calibrate(records, target)
    calibration = calibration_of(calibrated, target, model=facts.model.name, dataset=facts.dataset)
    write_calibration(calibration, path)
    return calibration, described(calibrated, target)
