"""`secondglance-eval calibrate --localization`: layer and window, chosen on half of the pictures.

The other half tests them.

The file for the server holds them beside the model's own gate; the gate is then chosen with them in force.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secondglance_eval.asking.layers import answer_from, loaded, look, own_setting, with_boxes
from secondglance_eval.asking.prefetch import Group, pictures_ahead
from secondglance_eval.datasets.example import Dataset
from secondglance_eval.errors import CalibrationError
from secondglance_eval.judging.gate_choice import TEST_SHARE, halves
from secondglance_eval.judging.intervals import Estimate as Measured
from secondglance_eval.judging.intervals import Resamples
from secondglance_eval.judging.window_choice import (
    HELD,
    Looked,
    Setting,
    choose_setting,
    finalists,
    held_share,
)
from secondglance_protocol.wire import DefaultGate
from secondglance_server.calibrated_gate import CalibratedGate, Provenance
from secondglance_server.engine.model_defaults import LocalizationSection
from secondglance_server.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Tested:
    """What the half that a setting was not chosen on shows of it."""

    held: Measured
    accuracy: Measured


@dataclass(frozen=True, slots=True)
class LocalizationChoice:
    """The chosen setting beside the model's `own`; `file` is what a server loads."""

    chosen: Setting
    own: Setting
    tested: dict[Setting, Tested]
    pictures: int
    questions: int
    file: CalibratedGate


def calibrate_localization(dataset: Dataset, settings: ServerSettings, *, workers: int) -> LocalizationChoice:
    """Choose layers, map and window for the settings' model. Raises CalibrationError, ModelLoadError."""
    groups = with_boxes(dataset)
    if not groups:
        raise CalibrationError(
            f"{dataset.name}: no question has a box: say where its answer lies, as left, top, right, bottom"
        )
    examples = [example for group in groups for example in group]
    choose_ids, test_ids = ({each.image_id for each in half} for half in halves(examples, TEST_SHARE))
    with loaded(settings) as engine, pictures_ahead(workers) as pool:
        max_new_tokens = engine.info.usual_new_tokens or settings.default_max_new_tokens
        own = own_setting(engine)

        def scored(part: Sequence[Group], looked: Sequence[Looked], tried: Sequence[Setting]) -> Scores:
            regions = {each.example_id: {way: each.region(way) for way in tried} for each in looked}
            return answer_from(engine, dataset, part, regions, pool, max_new_tokens=max_new_tokens)

        part = _of(groups, choose_ids)
        looked = look(engine, part, pool)
        chosen = choose_setting(scored(part, looked, finalists(looked, own)), own)
        part = _of(groups, test_ids)
        looked = look(engine, part, pool)
        tried = list(dict.fromkeys((own, chosen)))
        scores = scored(part, looked, tried)
        gate = engine.info.gate
    return LocalizationChoice(
        chosen=chosen,
        own=own,
        tested={way: _tested(looked, way, scores[way]) for way in tried},
        pictures=len(groups),
        questions=len(examples),
        file=CalibratedGate(
            model=settings.model,
            gate=DefaultGate(
                metric=gate.metric,
                aggregate=gate.aggregate,
                threshold=gate.threshold,
                doubt_threshold=gate.doubt_threshold,
            ),
            localization=section_of(chosen, dataset.name, len(examples), is_own=chosen == own),
            provenance=Provenance(
                dataset=dataset.name, date=_today(), pictures=len(groups), questions=len(examples), target={}
            ),
        ),
    )


Scores = dict[Setting, list[float]]


def section_of(setting: Setting, dataset: str, questions: int, *, is_own: bool) -> LocalizationSection:
    """Return the setting as the server's file holds it, with its origin."""
    how = setting.how
    origin = f"calibrated on {_today()} with {questions} questions of {dataset}"
    return LocalizationSection(
        attention=how.attention,
        window=how.window,
        base_side=how.base_side,
        min_side_cells=how.min_side_cells,
        pad_cells=how.pad_cells,
        layers=list(setting.layers),
        origin=f"{how.origin}; {origin}: nothing was clearly better" if is_own else origin,
    )


def described_localization(choice: LocalizationChoice) -> str:
    """Return the choice and what the test showed, as text for people."""
    rows = [("as it comes", choice.own), ("chosen", choice.chosen)]
    if choice.chosen == choice.own:
        rows = [("as it comes, and kept: nothing was clearly better", choice.own)]
    lines = [
        f"localization from {choice.questions} questions about {choice.pictures} pictures; on the half that"
        " it was not chosen on, with 95 % intervals:"
    ]
    for title, setting in rows:
        tested = choice.tested[setting]
        lines += [
            f"  {title}: {setting.name}",
            f"    crops with the answer   {tested.held.times(100):.1f} %",
            f"    second answers right    {tested.accuracy.times(100):.1f} %",
        ]
    return "\n".join(lines)


def _of(groups: Sequence[Group], image_ids: set[str]) -> list[Group]:
    return [group for group in groups if group[0].image_id in image_ids]


def _tested(looked: Sequence[Looked], setting: Setting, scores: Sequence[float]) -> Tested:
    resamples = Resamples([each.image_id for each in looked])
    held = [held_share(each.box, each.region(setting)) >= HELD for each in looked]
    return Tested(resamples.mean(np.array(held, float)), resamples.mean(np.array(scores, float)))


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
