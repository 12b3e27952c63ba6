"""Twelve cases to look at: of each way a question can go some, with pictures small enough for a report."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from secondglance_eval.asking.records import Record
from secondglance_protocol.wire import PixelBox

CASES = 12
THUMBNAIL_SIDE = 640
_JPEG_QUALITY = 85

Doubtful = Callable[[Record], bool]


@dataclass(frozen=True, slots=True)
class Case:
    """A record of always-retransmit and which way it is an example of."""

    record: Record
    what: str


# What happened under the gate -> how many cases of it are wanted.
_WANTED = {
    "unsure and wrong, right after the second glance": 5,
    "sure and right: nothing more was sent": 2,
    "unsure, wrong also after the second glance": 2,
    "unsure, made worse by the second glance": 1,
    "sure and wrong: the gate missed it": 2,
}


def what_happened(record: Record, *, doubtful: bool) -> str:
    """Return which way the question went under a gate that calls the draft doubtful or not."""
    was_right, is_right = record.draft_score == 1, record.score == 1
    if not (doubtful and record.asked_again):
        return "sure and right: nothing more was sent" if was_right else "sure and wrong: the gate missed it"
    if was_right:
        return "unsure, right before and after" if is_right else "unsure, made worse by the second glance"
    if is_right:
        return "unsure and wrong, right after the second glance"
    return "unsure, wrong also after the second glance"


def pick_cases(records: Sequence[Record], doubtful: Doubtful, *, seed: int = 0) -> list[Case]:
    """Return at most one case for each picture, drawn at random; filled up where a way has too few."""
    order = np.random.default_rng(seed).permutation(len(records))
    drawn = [Case(records[i], what_happened(records[i], doubtful=doubtful(records[i]))) for i in order]
    drawn.sort(key=lambda case: case.record.box is None)  # stable: what has a place is worth looking at
    left = dict(_WANTED)
    chosen: list[Case] = []
    for case in drawn:
        if left.get(case.what, 0) and _is_new(case, chosen):
            left[case.what] -= 1
            chosen.append(case)
    for case in drawn:
        if len(chosen) < CASES and _is_new(case, chosen):
            chosen.append(case)
    return sorted(chosen, key=lambda case: list(_WANTED).index(case.what) if case.what in _WANTED else 9)


def save_pictures(record: Record, data: bytes, folder: Path) -> None:
    """Write the picture made small, and the region that the server asked for at full detail."""
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(data)) as picture:
        original = picture.convert("RGB")
    if record.roi is not None:
        _save(_crop(original, record.roi), crop_file(record, folder))
    original.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    _save(original, picture_file(record, folder))


def picture_file(record: Record, folder: Path) -> Path:
    """Return where the small picture lies."""
    return folder / f"{_file_stem(record)}.jpg"


def crop_file(record: Record, folder: Path) -> Path:
    """Return where the region lies."""
    return folder / f"{_file_stem(record)}-crop.jpg"


def _file_stem(record: Record) -> str:
    return "".join(c if c.isalnum() else "-" for c in record.example_id)


def _crop(image: Image.Image, box: PixelBox) -> Image.Image:
    crop = image.crop((box.left, box.top, box.right, box.bottom))
    crop.thumbnail((224, 224), Image.Resampling.LANCZOS)
    return crop


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, "JPEG", quality=_JPEG_QUALITY)


def _is_new(case: Case, chosen: Sequence[Case]) -> bool:
    return all(case.record.image_id != other.record.image_id for other in chosen)
