"""`calibrate` keeps its word on pictures it has not seen, for each of the three wishes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from secondglance_eval.asking.records import Record, TokenUncertainty
from secondglance_eval.errors import CalibrationError
from secondglance_eval.judging.calibration import calibration_of, described, write_calibration
from secondglance_eval.judging.gate_choice import (
    DEFAULT_GATE,
    GateChoice,
    Target,
    TargetKind,
    choose,
    choose_and_test,
    halves,
    threshold_for,
)
from secondglance_eval.judging.gates import ALL_GATES, GateStatistic
from secondglance_eval.judging.study import Study
from secondglance_server.calibrated_gate import read_calibrated_gate
from secondglance_server.engine.protocol import GateDefaults, TokenStats
from secondglance_server.inference.gate import is_doubtful, judge
from tests.evaluation.synthetic import records

SEEDS = 24
WISHES: list[tuple[TargetKind, float]] = [
    ("max_retransmit", 0.3),
    ("max_uplink_bytes", 5000.0),
    ("target_accuracy", 0.83),
]


@pytest.mark.parametrize(("kind", "value"), WISHES)
def test_the_target_lies_within_or_beyond_the_reported_interval(kind: TargetKind, value: float) -> None:
    """Promised for 97.5 % of runs; 98 to 99 of 100 seeds did (docs/log.md). Chance breaks this bound once
    in 10,000."""
    target = Target(kind, value)
    results = [choose_and_test(records(seed, 100), target) for seed in range(SEEDS)]
    assert sum(target.is_met_by(result.expected) for result in results) >= SEEDS - 4
    reached = np.mean([result.expected.of(kind).value for result in results])
    assert reached == pytest.approx(value, rel=0.12)  # and not by staying far away from it


def test_the_reported_intervals_hold_the_truth() -> None:
    """What 7,500 other questions give lies in the intervals as often as 95 % says."""
    population = Study(records(10_000, 1500))
    doubt = population.doubts(DEFAULT_GATE)
    target = Target("max_retransmit", 0.3)
    inside = []
    for seed in range(SEEDS):
        result = choose_and_test(records(seed, 100), target)
        if result.choice.gate != DEFAULT_GATE:
            continue
        truth = population.gated("truth", doubt > result.choice.threshold)
        expected = result.expected
        inside += [
            expected.retransmit_rate.low <= truth.second.mean() <= expected.retransmit_rate.high,
            expected.uplink_bytes.low <= truth.uplink.mean() <= expected.uplink_bytes.high,
            expected.accuracy.low <= truth.score.mean() <= expected.accuracy.high,
        ]
    assert len(inside) > 45
    assert np.mean(inside) > 0.8


@pytest.mark.parametrize("gate", ALL_GATES, ids=lambda gate: gate.name)
def test_a_threshold_fires_in_the_server_as_it_was_computed(gate: GateStatistic) -> None:
    rows = records(1, 40)
    study = Study(rows)
    threshold = threshold_for(study, gate, Target("max_retransmit", 0.4))
    assert threshold is not None
    fires = [_fires(row, gate, threshold) for row in rows]
    assert study.pair(gate, threshold).second.tolist() == [float(fire) for fire in fires]
    assert 0.2 < np.mean(fires) <= 0.4


def _fires(row: Record, gate: GateStatistic, threshold: float) -> bool:
    tokens = [TokenStats("", t.min_entropy, t.shannon, t.margin) for t in row.tokens]
    defaults = GateDefaults(metric=gate.metric, aggregate=gate.aggregate, threshold=threshold)
    return is_doubtful(judge(tokens, defaults), tokens)


def test_a_better_metric_is_found() -> None:
    """Only the Shannon entropy says anything here, so no other gate may be chosen."""
    rng = np.random.default_rng(0)
    rows = [_with_blind_tokens(row, rng) for row in records(3, 200, noise=0.0)]
    choice = choose(Study(rows), Target("max_retransmit", 0.4))
    assert choice.gate.metric == "shannon"


def _with_blind_tokens(row: Record, rng: np.random.Generator) -> Record:
    def blind(token: TokenUncertainty) -> TokenUncertainty:
        return token.model_copy(update={"min_entropy": rng.random(), "margin": rng.random()})

    return row.model_copy(update={"tokens": tuple(map(blind, row.tokens))})


def test_the_default_stays_where_another_gate_is_only_lucky() -> None:
    """Metrics that say the same: whichever wins by chance on one half, the default is kept mostly."""
    picked = [choose(Study(records(seed, 60)), Target("max_retransmit", 0.3)).gate for seed in range(12)]
    assert sum(gate == DEFAULT_GATE for gate in picked) >= 9


def test_halves_are_parted_by_picture_and_do_not_depend_on_order() -> None:
    rows = records(0, 40)
    chosen_on, tested_on = halves(rows, 0.25)
    pictures = [{row.image_id for row in part} for part in (chosen_on, tested_on)]
    assert not pictures[0] & pictures[1]
    assert [len(part) for part in pictures] == [30, 10]
    again = halves(rows[::-1], 0.25)[1]
    assert {row.example_id for row in again} == {row.example_id for row in tested_on}


def test_drafts_without_tokens_always_ask_again() -> None:
    rows = _silenced(records(0, 40), every=4)
    study = Study(rows)
    threshold = threshold_for(study, DEFAULT_GATE, Target("max_retransmit", 0.5))
    assert threshold is not None
    silent = np.array([not row.tokens for row in rows])
    assert study.pair(DEFAULT_GATE, threshold).second[silent].all()
    with pytest.raises(CalibrationError, match=r"max retransmit 0\.1 is out of reach.*are 0\.250"):
        choose(study, Target("max_retransmit", 0.1))


def _silenced(rows: Sequence[Record], every: int) -> list[Record]:
    return [row.model_copy(update={"tokens": ()}) if i % every == 0 else row for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (
            Target("target_accuracy", 0.99),
            r"accuracy 0\.99 is out of reach.*asking always gives 0\.\d+",
        ),
        (Target("max_uplink_bytes", 1000), r"max uplink bytes 1000 is out of reach.*never asking takes \d+"),
    ],
)
def test_what_cannot_be_reached_is_said_with_what_can(target: Target, complaint: str) -> None:
    with pytest.raises(CalibrationError, match=complaint):
        choose_and_test(records(0, 40), target)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(CalibrationError, match="too few pictures: 7 to choose on and 8 to test on"):
        choose_and_test(records(0, 15), Target("max_retransmit", 0.3))


def test_the_loosest_wishes_are_granted() -> None:
    """Everything may be asked again, or nothing need be."""
    study = Study(records(0, 40))
    everything = choose(study, Target("max_retransmit", 1.0))
    assert study.pair(everything.gate, everything.threshold).second.all()
    nothing = choose(study, Target("target_accuracy", 0.0))
    assert not study.pair(nothing.gate, nothing.threshold).second.any()


def test_the_file_is_what_the_server_loads(tmp_path: Path) -> None:
    target = Target("max_retransmit", 0.3)
    result = choose_and_test(records(0, 100), target)
    path = tmp_path / "new" / "gate.json"
    write_calibration(calibration_of(result, target, model="embedded", dataset="scenes"), path)
    loaded = read_calibrated_gate(path)
    assert (
        GateChoice(GateStatistic(loaded.gate.metric, loaded.gate.aggregate), loaded.gate.threshold)
        == result.choice
    )
    assert loaded.provenance.target == {"max_retransmit": 0.3}
    assert (loaded.provenance.pictures, loaded.provenance.questions) == (100, 500)
    rate = loaded.expected["retransmit_rate"]
    assert rate.low <= rate.mean <= rate.high
    assert [p.name for p in path.parent.iterdir()] == ["gate.json"]
    assert "the interval reaches the target: max retransmit 0.3" in described(result, target)
