"""From what a user writes after `--dataset` to a data set: `scenes`, `textvqa:DIRECTORY`, `jsonl:FILE`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from secondglance_eval.datasets.checkout import held_out_scenes, photo_textures
from secondglance_eval.datasets.docvqa import read_docvqa
from secondglance_eval.datasets.example import Dataset
from secondglance_eval.datasets.files import FileDataset
from secondglance_eval.datasets.jsonl import read_jsonl
from secondglance_eval.datasets.seeds import CALIBRATION_SEED
from secondglance_eval.datasets.textvqa import read_textvqa
from secondglance_eval.datasets.vstar import read_vstar
from secondglance_eval.errors import DatasetError

SCENES = "scenes"
TEXTURES = "textures"
_DRAWN: dict[str, Callable[[int, int], Dataset]] = {SCENES: held_out_scenes, TEXTURES: photo_textures}
_FOLDERS = {"textvqa": read_textvqa, "docvqa": read_docvqa, "vstar": read_vstar}
_LEAST_STEP = 4  # pictures, of which one goes to the choice
KINDS = (*_DRAWN, "jsonl:FILE", *(f"{kind}:DIRECTORY" for kind in _FOLDERS))


def open_dataset(
    name: str, *, pictures: int | None, first_seed: int, metric: str = "exact", scenes: int = 200
) -> Dataset:
    """Return at most `pictures` of the data set; all if None (of those that are drawn: `scenes`).

    `first_seed` is for pictures that are drawn, `metric` for `jsonl`. Raises DatasetError, MissingPieceError.
    """
    kind, _, path = name.partition(":")
    if name in _DRAWN:
        return _DRAWN[name](pictures or scenes, first_seed)
    if kind == "jsonl" and path:
        return _first(read_jsonl(Path(path), metric=metric), pictures)
    if kind in _FOLDERS and path:
        return _first(_FOLDERS[kind](Path(path)), pictures)
    raise DatasetError(f"data set {name!r}: one of {', '.join(KINDS)} is needed")


def open_with_choice(
    name: str, *, pictures: int | None, choice_pictures: int, first_seed: int, metric: str = "exact"
) -> tuple[Dataset, Dataset]:
    """Return a data set for results and one to choose encodings on; they share no picture.

    Of pictures that are drawn both are as large as asked for, as there is no end of them. Files are divided:
    every fourth picture, or fewer, goes to the choice, at most `choice_pictures`. Raises DatasetError.
    """
    if name in _DRAWN:
        draw = _DRAWN[name]
        return draw(pictures or 1000, first_seed), draw(choice_pictures, CALIBRATION_SEED)
    whole = open_dataset(name, pictures=pictures, first_seed=first_seed, metric=metric)
    assert isinstance(whole, FileDataset)
    if len(whole) < 2:
        raise DatasetError(f"{whole.name}: two pictures are needed, one of them to choose encodings on")
    step = max(_LEAST_STEP, -(-len(whole) // choice_pictures))
    chosen = range(step - 1, len(whole), step) or range(len(whole) - 1, len(whole))
    kept = [number for number in range(len(whole)) if number not in chosen]
    to_judge, to_choose = (tuple(whole.groups[number] for number in part) for part in (kept, chosen))
    return replace(whole, groups=to_judge), replace(whole, groups=to_choose)


def _first(dataset: FileDataset, pictures: int | None) -> FileDataset:
    return dataset if pictures is None else replace(dataset, groups=dataset.groups[:pictures])
