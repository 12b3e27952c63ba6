"""The baseline that hurts: one picture, larger, finer or in another format, at the pair's mean bytes.

Found by measurement on pictures of its own: for every format and size the quality whose mean bytes reach the
pair's, then every question is asked; the best encodings go into the run. The server scales a larger picture
down to what its model can use; that is tried all the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from secondglance.pictures.encoding import Recipe
from secondglance_eval.asking.asker import Asker
from secondglance_eval.asking.methods import ALWAYS, GLOBAL_PREFIX, Method, global_method, standard_methods
from secondglance_eval.asking.photo import Photo, View
from secondglance_eval.asking.prefetch import pictures_ahead
from secondglance_eval.asking.records import RecordWriter, read_records
from secondglance_eval.asking.run import Pace, run
from secondglance_eval.datasets.example import Dataset, Example
from secondglance_eval.judging.gates import GateStatistic
from secondglance_eval.judging.study import Study
from secondglance_protocol.wire import ModelResponse

SCALES = (1.0, 1.5, 2.0, 3.0)  # times the sides that the model can use
KEPT = 2  # encodings that are put to the whole dataset
FRUGAL = 0.6  # times the pair's bytes: one more point of the best encoding's curve, on some pictures
FRUGAL_EVERY = 4

_RECIPES = (Recipe("jpeg", subsampling="4:2:0"), Recipe("jpeg", subsampling="4:4:4"), Recipe("webp"))


@dataclass(frozen=True, slots=True)
class Tried:
    """One encoding's accuracy and bytes on the pictures that the choice was made on."""

    view: View
    accuracy: float
    uplink_bytes: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """`pair_bytes`: the pair's mean uplink, which the encodings were fitted to. `tried`: best first.

    `ample`: the best encoding at always-retransmit's bytes, so that whatever part of the questions is
    looked at, some single picture takes at least the pair's bytes there. `frugal`: at fewer.
    """

    pair_bytes: float
    tried: tuple[Tried, ...]
    ample: View
    frugal: View

    def methods(self) -> tuple[Method, ...]:
        """Return the methods that go into the run."""
        views = dict.fromkeys([*(one.view for one in self.tried[:KEPT]), self.ample])
        frugal = () if self.frugal in views else (global_method(self.frugal, every=FRUGAL_EVERY),)
        return (*map(global_method, views), *frugal)

    def save(self, path: Path) -> None:
        """Write the choice as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def load_choice(path: Path) -> Chosen:
    """Return what `Chosen.save` wrote."""
    stored = json.loads(path.read_text())
    return Chosen(
        stored["pair_bytes"],
        tuple(Tried(_view(one["view"]), one["accuracy"], one["uplink_bytes"]) for one in stored["tried"]),
        _view(stored["ample"]),
        _view(stored["frugal"]),
    )


def choose(dataset: Dataset, asker: Asker, records: Path, *, pace: Pace) -> Chosen:
    """Choose encodings on `dataset`, which should not be the one that results are taken from."""
    with RecordWriter(records) as writer:
        run(dataset, standard_methods()[:1], asker, writer, pace=pace, what="the pair's bytes")
        study = Study(read_records(records))
        pair_bytes = _pair_bytes(study, asker.model)
        photos = _photos(dataset, asker.model, pace)
        around = _bytes_around(study, photos, asker)
        fitted = [
            at_bytes(View(recipe, scale), photos, pair_bytes - around)
            for recipe in _RECIPES
            for scale in SCALES
            if _is_accepted(recipe, asker.model)
        ]
        run(dataset, [global_method(view) for view in fitted], asker, writer, pace=pace, what="encodings")
    study = Study(read_records(records))
    tried = sorted((_tried(study, view) for view in fitted), key=lambda one: -one.accuracy)
    always_bytes = float(study.measured(ALWAYS).uplink.mean())
    ample, frugal = (
        at_bytes(tried[0].view, photos, wanted - around) for wanted in (always_bytes, FRUGAL * pair_bytes)
    )
    return Chosen(pair_bytes, tuple(tried), ample, frugal)


def _pair_bytes(study: Study, model: ModelResponse) -> float:
    gate = GateStatistic(model.gate.metric, model.gate.aggregate)
    return float(study.pair(gate, model.gate.threshold).uplink.mean())


def _photos(dataset: Dataset, model: ModelResponse, pace: Pace) -> list[Photo]:
    firsts = [group[0] for group in dataset]
    with pictures_ahead(pace.workers) as pool:
        pictures = list(pool.map(_read, firsts))
    return [
        Photo(data, (example.width, example.height), model)
        for example, data in zip(firsts, pictures, strict=True)
    ]


def _read(example: Example) -> bytes:
    return example.image()


def _bytes_around(study: Study, photos: Sequence[Photo], asker: Asker) -> float:
    """What a first request holds beside its picture, on average over pictures."""
    bodies = fmean(len(photo.view(asker.image_view).data) for photo in photos)
    by_picture: dict[str, int] = {}
    for record in study.always:
        by_picture.setdefault(record.image_id, record.first.uplink_bytes)
    return fmean(by_picture.values()) - bodies


def at_bytes(view: View, photos: Sequence[Photo], wanted: float) -> View:
    """Return the view at the least quality whose mean bytes reach `wanted`, else at the best quality."""
    low, high = 1, 100
    while low < high:
        middle = (low + high) // 2
        if fmean(len(photo.view(view.at_quality(middle)).data) for photo in photos) >= wanted:
            high = middle
        else:
            low = middle + 1
    return view.at_quality(low)


def _is_accepted(recipe: Recipe, model: ModelResponse) -> bool:
    return f"image/{recipe.format}" in model.image.formats


def _tried(study: Study, view: View) -> Tried:
    outcome = study.measured(f"{GLOBAL_PREFIX}{view.name}")
    return Tried(view, float(outcome.score.mean()), float(outcome.uplink.mean()))


def _view(stored: dict[str, object]) -> View:
    recipe = stored["recipe"]
    assert isinstance(recipe, dict)
    return View(Recipe(**recipe), float(str(stored["scale"])))
