"""Backgrounds of photographs: other colours and bright things in training only; all parts of one agree."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from training.reader.drawing import textures
from training.reader.drawing.textures import PhotoBackground, _other_hues

WHOLE = (0.0, 0.0, 1.0, 1.0)
SIZE = (96, 64)


@pytest.fixture(autouse=True)
def photographs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One reddish photograph for each split, soft and without any green or blue thing."""
    rng = np.random.default_rng(0)
    path = tmp_path / "photograph.png"
    soft = Image.fromarray(rng.integers(90, 120, (6, 9, 3), np.uint8) + np.array((60, 0, 0), np.uint8))
    soft.resize((900, 600), Image.Resampling.BICUBIC).save(path)
    monkeypatch.setattr(textures, "texture_files", lambda split: (path,))
    yield
    textures._load.cache_clear()


def painted(seed: int, split: textures.Split) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    background = PhotoBackground(np.random.default_rng(seed), split, 1.5)
    return np.asarray(background.paint(SIZE, WHOLE)).astype(np.int16)


def test_a_held_out_photograph_keeps_its_hue_and_training_sees_others() -> None:
    def is_red(pixels: np.ndarray[tuple[int, ...], np.dtype[np.int16]]) -> bool:
        return bool((pixels.mean((0, 1)).argmax() == 0) and (pixels[..., 0] > pixels[..., 2]).all())

    assert all(is_red(painted(seed, "test")) for seed in range(12))
    assert 0.15 < np.mean([is_red(painted(seed, "train")) for seed in range(60)]) < 0.7


def test_a_part_shows_what_the_whole_shows_there() -> None:
    part = (0.25, 0.25, 0.75, 0.75)
    for seed in range(12):
        background = PhotoBackground(np.random.default_rng(seed), "train", 1.5)
        whole = background.paint((192, 128), WHOLE).crop((48, 32, 144, 96))
        seen = background.paint((96, 64), part)
        assert np.abs(np.asarray(whole, np.int16) - np.asarray(seen, np.int16)).mean() < 3


def test_other_hues_leave_grey_as_it_is() -> None:
    grey = Image.new("RGB", (4, 4), (120, 120, 120))
    red = Image.new("RGB", (4, 4), (150, 100, 100))
    turned = set()
    for seed in range(20):
        matrix = _other_hues(np.random.default_rng(seed), 0.4)
        assert np.abs(np.asarray(grey.convert("RGB", matrix), int) - 120).max() <= 1
        turned.add(int(np.asarray(red.convert("RGB", matrix))[0, 0].argmax()))
    assert turned == {0, 1, 2}


def test_training_photographs_are_wallpapers_and_landscapes_and_none_is_held_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(textures, "_ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^31 photographs are missing .*endless-sky-high-dpi"):
        textures.texture_files.__wrapped__("train")
    for names, folder in (
        (textures._BACKGROUNDS_TRAIN + textures._BACKGROUNDS_TEST, "backgrounds"),
        (textures._NATURE_TRAIN + textures._NATURE_TEST, "backgrounds/mate/nature"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for name in names.split():
            (tmp_path / folder / f"{name}.jpg").touch()
    for name in (textures._PLASMA_TRAIN + " " + textures._PLASMA_TEST).split():
        images = tmp_path / "wallpapers" / name / "contents" / "images"
        images.mkdir(parents=True)
        (images / "1280x1024.jpg").touch()
    landscapes = tmp_path / textures._LANDSCAPES
    landscapes.mkdir(parents=True)
    for name in ("beach0@2x.jpg", "city0@2x.jpg"):
        (landscapes / name).touch()
    train, test = (set(textures.texture_files.__wrapped__(split)) for split in ("train", "test"))
    assert not train & test
    assert {path.name for path in train} >= {
        "beach0@2x.jpg",
        "city0@2x.jpg",
        "Bridge_by_Sander_Klootwijk.jpg",
    }
    assert len(train) == 32
    assert len(test) == 10
