"""What the benchmark of the model that reads counts, on pictures and an engine without a model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import benchmarks.reader
from benchmarks.reader import Photo, Question, Scene, ask_all, figures, photo_figures, photo_rows, photo_seeds
from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original
from secondglance_server.engine.fake import FakeEngine, FakeScript
from tests.edge_client.formats.make import FILES
from training.reader.drawing import textures


@pytest.fixture
def scene(tmp_path) -> Scene:
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    photo = Photo(tmp_path / "photo.png")
    asked = (Question("What number?", ("42",), "read"), Question("What else?", ("a sign",), "read"))
    return Scene(photo.size, photo, asked)


def test_a_second_look_costs_its_bytes_and_its_answer_counts(scene: Scene) -> None:
    engine = FakeEngine()
    rows = ask_all(engine, "test", iter([scene]), 0.5)
    assert [(row.right_first, row.right, row.asked_again) for row in rows] == [
        (False, True, True),
        (True, False, True),
    ]
    assert figures(rows, 0.5)["spoilt"] == 0.5
    engine.script = FakeScript(draft="42", draft_entropy_nats=0.1)
    sure = ask_all(engine, "test", iter([scene]), 0.5)
    assert [row.asked_again for row in sure] == [False, False]
    assert 0 < sure[0].sent < rows[0].sent
    found = figures(sure, 0.5)
    assert (found["pair"], found["sure_right"], found["uplink_bytes"]) == (0.5, 0.5, sure[0].sent)


def test_pictures_are_no_larger_than_the_model_can_use(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = FakeEngine(), []
    answer = engine.answer
    monkeypatch.setattr(engine, "answer", lambda asked: seen.extend(asked) or answer(asked))
    ask_all(engine, "test", iter([scene]), 0.5)
    whole, patch = seen[0].picture.rgb, seen[1].patch.rgb
    assert whole.shape == (252, 336, 3)
    assert max(patch.shape) <= 336


def test_a_refusal_is_not_asked_again(scene: Scene) -> None:
    engine = FakeEngine(FakeScript(draft_entropy_nats=0.7, is_off_domain=True))
    assert not any(row.asked_again for row in ask_all(engine, "test", iter([scene]), 0.5))


def test_a_picture_that_was_seen_whole_is_not_asked_for_again(tmp_path) -> None:
    """As the server's skip rule has it: a second look at the same pixels only spoiled answers."""
    Image.new("RGB", (200, 100)).save(tmp_path / "small.png")
    small = Photo(tmp_path / "small.png")
    rows = ask_all(
        FakeEngine(), "test", iter([Scene(small.size, small, (Question("What?", ("42",), "read"),))]), 0.5
    )
    assert [(row.gate > 0.5, row.asked_again, len(row.stage_ms)) for row in rows] == [(True, False, 1)]


@pytest.mark.parametrize("name", ["adobe-rgb.jpg", "cmyk.jpg"])
def test_a_photograph_is_seen_in_the_colours_that_an_edge_sends(name: str) -> None:
    """In process a photograph with a colour profile was read in other colours than over HTTP."""
    path = FILES / name
    photo, original = Photo(path), Original(path.read_bytes())
    width, height = photo.size
    sent = original.global_image(PixelBudget(64, 64))
    assert np.array_equal(photo.render((0.0, 0.0, float(width), float(height)), 64), sent)
    part = original.crop((10, 20, 40, 50))
    assert np.array_equal(photo.render((10.0, 20.0, 40.0, 50.0), 64), part)


def test_photo_figures_have_names_of_their_own_and_need_the_photographs(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    monkeypatch.setattr(benchmarks.reader, "photo_scene", lambda seed, count: scene)
    monkeypatch.setattr(benchmarks.reader, "texture_files", lambda split: ())
    engine = FakeEngine()
    seeds = photo_seeds(2)
    found = photo_figures([row for seed in seeds for row in photo_rows(engine, seed)], 0.5)
    assert (found["photo_questions"], found["photo_pair"]) == (4, 0.5)
    assert all(name.startswith("photo_") for name in found)
    textures.texture_files.cache_clear()
    monkeypatch.setattr(textures, "_ROOT", tmp_path)
    monkeypatch.setattr(benchmarks.reader, "texture_files", textures.texture_files)
    assert not photo_seeds(2)
    assert "apt-get install" in capsys.readouterr().err
    textures.texture_files.cache_clear()
