"""Photo textures as a data set: ids, places, and that answers are judged by letters and digits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondglance_eval.datasets.checkout import photo_textures
from secondglance_eval.datasets.seeds import CALIBRATION_SEED, TEST_SEED
from secondglance_eval.datasets.textures import PhotoTextures
from secondglance_eval.errors import MissingPieceError
from training.reader.drawing import textures, words

SCENES = 3


@pytest.fixture(autouse=True)
def installed_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One photograph and a few words, whatever is installed on this machine."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    monkeypatch.setattr(textures, "texture_files", lambda split: (tmp_path / "photo.png",))
    monkeypatch.setattr(words, "word_list", lambda split: ("alpha", "bravo", "charlie"))


def test_examples_come_by_picture_the_same_every_time() -> None:
    dataset = PhotoTextures(SCENES)
    groups = list(dataset)
    assert len(groups) == len(dataset) == SCENES
    assert groups == list(dataset)
    assert all(len({example.image_id for example in group}) == 1 for group in groups)
    ids = [example.id for group in groups for example in group]
    assert len(ids) == len(set(ids))


def test_what_is_read_lies_somewhere_in_the_picture() -> None:
    examples = [example for group in PhotoTextures(12) for example in group]
    assert any(example.kind == "read" for example in examples)
    for example in examples:
        assert (example.box is not None) == (example.text_height_px is not None)
        assert example.answers[0]
        if example.kind == "read":
            assert example.box is not None
        if example.box is not None:
            assert 0 <= example.box.left < example.box.right <= example.width
            assert 0 <= example.box.top < example.box.bottom <= example.height


def test_the_picture_has_the_size_that_its_examples_name() -> None:
    example = min((group[0] for group in PhotoTextures(4)), key=lambda each: each.width * each.height)
    with Image.open(io.BytesIO(example.image())) as image:
        assert image.size == (example.width, example.height)


def test_letters_and_digits_decide() -> None:
    dataset = PhotoTextures(1)
    example = next(iter(dataset))[0]
    said = example.answers[0]
    assert dataset.score(f" {said.upper()}. ", example) == 1
    assert dataset.score(said + "x", example) == 0


def test_what_is_chosen_by_measurement_is_not_judged_by_the_same_pictures() -> None:
    judged, chosen = (
        {g[0].image_id for g in PhotoTextures(5, seed)} for seed in (TEST_SEED, CALIBRATION_SEED)
    )
    assert not judged & chosen


def test_missing_photographs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(_split: str) -> tuple[Path, ...]:
        raise FileNotFoundError("1 photograph is missing: apt-get install some-wallpapers")

    monkeypatch.setattr(textures, "texture_files", missing)
    with pytest.raises(MissingPieceError, match="apt-get install some-wallpapers"):
        photo_textures(1, TEST_SEED)
