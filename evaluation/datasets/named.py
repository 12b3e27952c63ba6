"""From what a user writes after `--dataset` to a data set: `scenes`, `textvqa:DIRECTORY`, `jsonl:FILE`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaluation.datasets.docvqa import read_docvqa
from evaluation.datasets.files import DatasetError, FileDataset
from evaluation.datasets.jsonl import read_jsonl
from evaluation.datasets.textvqa import read_textvqa
from evaluation.datasets.vstar import read_vstar
from evaluation.example import Dataset
from evaluation.held_out import HeldOutScenes

SCENES = "scenes"
_FOLDERS = {"textvqa": read_textvqa, "docvqa": read_docvqa, "vstar": read_vstar}
KINDS = (SCENES, "jsonl:FILE", *(f"{kind}:DIRECTORY" for kind in _FOLDERS))


def open_dataset(
    name: str, *, pictures: int | None, first_seed: int, metric: str = "exact", scenes: int = 200
) -> Dataset:
    """At most `pictures` of it, all of it if None (of the endless scenes: `scenes`).

    `first_seed` is for the scenes, `metric` for `jsonl`. Raises DatasetError.
    """
    kind, _, path = name.partition(":")
    if name == SCENES:
        return HeldOutScenes(pictures or scenes, first_seed)
    if kind == "jsonl" and path:
        return _first(read_jsonl(Path(path), metric=metric), pictures)
    if kind in _FOLDERS and path:
        return _first(_FOLDERS[kind](Path(path)), pictures)
    raise DatasetError(f"data set {name!r}: one of {', '.join(KINDS)} is needed")


def _first(dataset: FileDataset, pictures: int | None) -> FileDataset:
    return dataset if pictures is None else replace(dataset, groups=dataset.groups[:pictures])
