"""The stages of the model that reads: two steps of each, twice, on made-up records."""

from __future__ import annotations

import gzip
import pathlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.reader_lines import read_line
from training.reader import repeat
from training.reader.records import Record, TrueLine, TrueSign, View, shard_path, thumbnail, to_json
from training.reader.stages import dense

RECORDS, HELD_BACK = 40, 40  # of 80 views


def record(seed: int) -> Record:
    color = ("red", "blue", "green")[seed % 3]
    thumb = thumbnail(Image.new("RGB", (192, 144), color))
    box = (0.2, 0.3, 0.2 + 0.02 * (seed % 7 + 3), 0.4)
    text = f"NO {seed}"
    sign = TrueSign(color, box, 1.0, (TrueLine(text, "words", box),))
    view = View((448, 336), thumb, (read_line(text, *box),), (sign,), None)
    return Record(seed, "photo", (view, replace(view, target=0)))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = shard_path(tmp_path_factory.mktemp("scenes"), "train", 0)
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as file:
        file.writelines(to_json(record(seed)) + "\n" for seed in range(RECORDS))
    return path.parent


def test_a_second_run_gives_the_same_losses_and_weights(
    scenes: pathlib.Path, tmp_path: pathlib.Path, few_words: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "_HELD_BACK", HELD_BACK)
    first, second = (repeat.run(tmp_path / name, scenes, 2, 1) for name in "ab")
    assert [*first] == ["decoder", "dense", "scales", "joint"]
    for stage in first:
        assert first[stage][0]
        assert np.isfinite(first[stage][0]).all()
        assert repeat.difference(first[stage], second[stage]) == 0


def test_a_difference_is_seen_in_losses_and_in_weights() -> None:
    result = [0.5, 0.25], {"a": torch.zeros(2), "b": torch.ones(1)}
    assert repeat.difference(result, result) == 0
    assert repeat.difference(result, ([0.5, 0.5], result[1])) == 0.25
    assert repeat.difference(result, (result[0], {"a": torch.tensor([0, -2.0]), "b": torch.ones(1)})) == 2
