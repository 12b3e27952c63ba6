"""Anybody's own questions: a file with a JSON object a line, pictures beside it.

    {"image": "photos/door.jpg", "question": "What is the number?", "answers": ["12", "12a"],
     "box": [810, 440, 902, 500]}

`image` is a path from the file's directory; `answers` are all that count as right (for the metric `vqa`, ten
people's). Optional: `box`, where the answer lies, as left, top, right, bottom in pixels of the upright
picture, right and bottom just outside; `id`; `kind`, by which a report is split. Other fields are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from secondglance_eval.datasets.example import Example, ImageFile
from secondglance_eval.datasets.files import FileDataset, grouped, json_lines, picture_size
from secondglance_eval.errors import DatasetError
from secondglance_eval.judging.scoring import SCORE_RULES, VQA_ANSWERS
from secondglance_protocol.wire import PixelBox, Question


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field(min_length=1)
    question: Question
    answers: Annotated[tuple[str, ...], Field(min_length=1)]
    box: tuple[int, int, int, int] | None = None
    id: str | None = None
    kind: str = "question"


def read_jsonl(path: Path, *, metric: str = "exact") -> FileDataset:
    """Read the file; `metric` is a key of `judging.scoring.SCORE_RULES`. Raises DatasetError."""
    if not path.is_file():
        raise DatasetError(f"missing: {path}")
    if metric not in SCORE_RULES:
        raise DatasetError(f"metric {metric!r}: one of {', '.join(SCORE_RULES)} is needed")
    examples = [
        _example(path.parent, where, index, row, metric)
        for index, (where, row) in enumerate(json_lines(path, _Row))
    ]
    return grouped(path.stem, examples, SCORE_RULES[metric])


def _example(directory: Path, where: str, index: int, row: _Row, metric: str) -> Example:
    picture = directory / row.image
    width, height = picture_size(picture, f"{where}: image")
    if metric == "vqa" and len(row.answers) != VQA_ANSWERS:
        raise DatasetError(f"{where}: answers: the metric vqa needs {VQA_ANSWERS}, not {len(row.answers)}")
    return Example(
        id=row.id or str(index),
        image_id=row.image,
        question=row.question,
        answers=row.answers,
        kind=row.kind,
        image=ImageFile(picture),
        width=width,
        height=height,
        box=None if row.box is None else _box(row.box, (width, height), where),
    )


def _box(box: tuple[int, int, int, int], size: tuple[int, int], where: str) -> PixelBox:
    left, top, right, bottom = box
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise DatasetError(
            f"{where}: box: {list(box)} does not lie in a picture of {size[0]}x{size[1]} pixels"
        )
    return PixelBox(left=left, top=top, right=right, bottom=bottom)
