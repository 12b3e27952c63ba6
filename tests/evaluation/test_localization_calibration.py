"""`calibrate --localization` on the embedded model, as if nobody had measured it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from scenes.generator import encode_jpeg, make_scene, render
from secondglance_eval.asking.layers import answer_from, loaded, look, own_setting, with_boxes
from secondglance_eval.asking.prefetch import Group, pictures_ahead
from secondglance_eval.datasets.example import Example, exact_match
from secondglance_eval.judging.localization import calibrate_localization
from secondglance_eval.judging.window_choice import Setting
from secondglance_protocol.geometry import cover_pixels
from secondglance_protocol.wire import ImageSize
from secondglance_server.engine.adapters.llava import LlavaAdapter
from secondglance_server.engine.loader import EMBEDDED_WEIGHTS
from secondglance_server.engine.model_defaults import DEFAULTS_FILE, read_model_defaults
from secondglance_server.engine.protocol import LocalizationDefaults
from secondglance_server.settings import ServerSettings

SIZE = ImageSize(width=2400, height=1800)
QUESTIONS = 4  # about a picture


@dataclass(frozen=True, slots=True)
class Rendered:
    """A scene, rendered where it is needed."""

    seed: int

    def __call__(self) -> bytes:
        return encode_jpeg(render(make_scene(self.seed, split="test", size=(SIZE.width, SIZE.height))), 90)


@dataclass(frozen=True, slots=True)
class BoxedScenes:
    """Scenes with the places of their answers."""

    first_seed: int
    pictures: int
    name: str = "boxed scenes"

    def __len__(self) -> int:
        return self.pictures

    def __iter__(self) -> Iterator[Group]:
        for seed in range(self.first_seed, self.first_seed + self.pictures):
            scene = make_scene(seed, split="test", size=(SIZE.width, SIZE.height))
            yield tuple(
                Example(
                    id=f"{seed}/{number}",
                    image_id=str(seed),
                    question=question.text,
                    answers=(question.answer,),
                    kind=question.kind,
                    image=Rendered(seed),
                    width=SIZE.width,
                    height=SIZE.height,
                    box=cover_pixels(*scene.signs[question.sign].box, SIZE),
                )
                for number, question in enumerate(scene.questions[:QUESTIONS])
                if question.sign is not None
            )

    def score(self, prediction: str, example: Example) -> float:
        return exact_match(prediction, example)


def shipped_setting() -> Setting:
    """Return what the embedded model's own file says."""
    section = read_model_defaults(EMBEDDED_WEIGHTS)
    return Setting(
        section.layers((0,), 99), section.localization_defaults(LocalizationDefaults(base_side=224))
    )


@pytest.fixture
def bare(tmp_path: Path) -> ServerSettings:
    """The embedded model without its file, as any model that somebody brings."""
    folder = tmp_path / "bare"
    shutil.copytree(EMBEDDED_WEIGHTS, folder)
    (folder / DEFAULTS_FILE).unlink()
    return ServerSettings(model=str(folder))


def test_a_model_without_a_file_starts_from_its_familys_defaults(bare: ServerSettings) -> None:
    with loaded(bare) as engine:
        own = own_setting(engine)
    assert LlavaAdapter.read_layer_origin in own.how.origin
    assert (own.how.attention, own.how.window) == ("relative", "vicrop")
    assert own != shipped_setting()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_there_to_a_setting_as_good_as_the_shipped_one(bare: ServerSettings) -> None:
    """On scenes that had no part in the choice."""
    choice = calibrate_localization(BoxedScenes(402_000, 20), bare, workers=1)

    assert choice.file.localization is not None
    assert tuple(choice.file.localization.layers) == choice.chosen.layers
    others = BoxedScenes(403_000, 8)
    shipped = shipped_setting()
    with loaded(bare) as engine, pictures_ahead(1) as pool:
        assert own_setting(engine) == choice.own
        groups = with_boxes(others)
        regions = {
            each.example_id: {way: each.region(way) for way in (choice.chosen, shipped, choice.own)}
            for each in look(engine, groups, pool)
        }
        scores = answer_from(engine, others, groups, regions, pool, max_new_tokens=8)
    print({way.name: round(float(np.mean(found)), 4) for way, found in scores.items()})
    for other in (shipped, choice.own):
        gain = np.asarray(scores[choice.chosen]) - np.asarray(scores[other])
        assert gain.mean() >= -gain.std(ddof=1) / len(gain) ** 0.5, other.name
