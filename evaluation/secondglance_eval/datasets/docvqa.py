"""DocVQA's validation split (5,349 questions about single pages, docvqa.org), scored by ANLS.

DIRECTORY/val_v1.0_withQT.json            or DIRECTORY/spdocvqa_qas/val_v1.0_withQT.json
DIRECTORY/documents/<page>.png            or DIRECTORY/spdocvqa_images/<page>.png
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from secondglance_eval.datasets.example import Example, ImageFile
from secondglance_eval.datasets.files import (
    FileDataset,
    first_existing,
    grouped,
    json_rows,
    picture_size,
)
from secondglance_eval.errors import DatasetError
from secondglance_eval.judging.scoring import anls
from secondglance_protocol.wire import Question

QUESTIONS = "val_v1.0_withQT.json"


class _Row(BaseModel):
    """The fields that are used. `image` is `documents/<page>.png`, whatever the folder is called."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    questionId: int | str  # noqa: N815  # the file's own spelling
    question: Question
    image: str = Field(min_length=1)
    answers: Annotated[tuple[str, ...], Field(min_length=1)]
    question_types: tuple[str, ...] = ()


def read_docvqa(directory: Path) -> FileDataset:
    """Read the validation split. Raises DatasetError."""
    questions = first_existing(directory / QUESTIONS, directory / "spdocvqa_qas" / QUESTIONS)
    images = first_existing(directory / "documents", directory / "spdocvqa_images")
    return grouped(
        "docvqa",
        [_example(images, where, row) for where, row in json_rows(questions, "data", _Row)],
        anls,
    )


def _example(images: Path, where: str, row: _Row) -> Example:
    page = PurePosixPath(row.image).name
    if not page:
        raise DatasetError(f"{where}: image: {row.image!r} names no file")
    picture = images / page
    width, height = picture_size(picture, f"{where}: image")
    return Example(
        id=str(row.questionId),
        image_id=page,
        question=row.question,
        answers=row.answers,
        kind=row.question_types[0] if row.question_types else "document",
        image=ImageFile(picture),
        width=width,
        height=height,
    )
