"""TextVQA's validation split (5,000 questions, textvqa.org), scored by VQA accuracy over ten answers.

DIRECTORY/TextVQA_0.5.1_val.json
DIRECTORY/train_images/<image_id>.jpg     (train and validation share the folder)
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from secondglance_eval.datasets.example import Example, ImageFile
from secondglance_eval.datasets.files import FileDataset, first_existing, grouped, json_rows, picture_size
from secondglance_eval.judging.scoring import VQA_ANSWERS, vqa_accuracy
from secondglance_protocol.wire import Question

QUESTIONS = "TextVQA_0.5.1_val.json"
IMAGES = "train_images"


class _Row(BaseModel):
    """The fields that are used; `image_width` and `image_height` are not: the file itself is asked."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    question_id: int | str
    image_id: str
    question: Question
    answers: Annotated[tuple[str, ...], Field(min_length=VQA_ANSWERS, max_length=VQA_ANSWERS)]


def read_textvqa(directory: Path) -> FileDataset:
    """Read the validation split. Raises DatasetError."""
    questions = first_existing(directory / QUESTIONS)
    return grouped(
        "textvqa",
        [_example(directory, where, row) for where, row in json_rows(questions, "data", _Row)],
        vqa_accuracy,
    )


def _example(directory: Path, where: str, row: _Row) -> Example:
    picture = directory / IMAGES / f"{row.image_id}.jpg"
    width, height = picture_size(picture, f"{where}: image_id")
    return Example(
        id=str(row.question_id),
        image_id=row.image_id,
        question=row.question,
        answers=row.answers,
        kind="text",
        image=ImageFile(picture),
        width=width,
        height=height,
    )
