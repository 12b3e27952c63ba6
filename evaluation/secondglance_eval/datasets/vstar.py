"""V*Bench (191 questions about small objects in large photos), multiple choice by the exact letter.

    DIRECTORY/test_questions.jsonl                       question with its options, and the right letter
    DIRECTORY/direct_attributes/sa_1.jpg, sa_1.json      the annotation holds the objects' boxes
    DIRECTORY/relative_position/sa_2.jpg, sa_2.json

The published likelihood of every option cannot be asked of a server: see `secondglance_eval.judging.scoring`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from secondglance_eval.datasets.example import Example, ImageFile
from secondglance_eval.datasets.files import (
    FileDataset,
    first_existing,
    grouped,
    json_document,
    json_lines,
    picture_size,
)
from secondglance_eval.errors import DatasetError
from secondglance_eval.judging.scoring import choice_letter
from secondglance_protocol.wire import PixelBox, Question

QUESTIONS = "test_questions.jsonl"


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    image: str = Field(min_length=1)
    text: Question
    category: str
    question_id: int | str
    label: Annotated[str, Field(pattern="^[A-Z]$")]


class _Annotation(BaseModel):
    """`bbox`: left, top, width, height of every object that the question is about, in pixels."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bbox: tuple[tuple[float, float, float, float], ...]


def read_vstar(directory: Path) -> FileDataset:
    """Read the benchmark. Raises DatasetError."""
    questions = first_existing(directory / QUESTIONS)
    return grouped(
        "vstar",
        [_example(directory, where, row) for where, row in json_lines(questions, _Row)],
        choice_letter,
    )


def _example(directory: Path, where: str, row: _Row) -> Example:
    picture = directory / row.image
    size = picture_size(picture, f"{where}: image")
    return Example(
        id=str(row.question_id),
        image_id=row.image,
        question=row.text,
        answers=(row.label,),
        kind=row.category,
        image=ImageFile(picture),
        width=size[0],
        height=size[1],
        box=_box_around_all(picture.with_suffix(".json"), size),
    )


def _box_around_all(path: Path, size: tuple[int, int]) -> PixelBox | None:
    """The smallest box that holds every object asked about; None without an annotation."""
    if not path.exists():
        return None
    boxes = json_document(path, _Annotation).bbox
    if not boxes:
        return None
    left, top = min(x for x, _, _, _ in boxes), min(y for _, y, _, _ in boxes)
    right, bottom = max(x + w for x, _, w, _ in boxes), max(y + h for _, y, _, h in boxes)
    corners = (
        max(math.floor(left), 0),
        max(math.floor(top), 0),
        min(math.ceil(right), size[0]),
        min(math.ceil(bottom), size[1]),
    )
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        raise DatasetError(f"{path}: bbox: {boxes} does not lie in a picture of {size[0]}x{size[1]} pixels")
    return PixelBox(left=corners[0], top=corners[1], right=corners[2], bottom=corners[3])
