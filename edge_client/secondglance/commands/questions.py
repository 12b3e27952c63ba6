"""The questions of a command that asks more than one: given with -q, read from a file, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Questions: TypeAlias = Annotated[
    list[str] | None, typer.Option("--question", "-q", metavar="QUESTION", help="May be repeated.")
]
QuestionsFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--questions", metavar="FILE", exists=True, dir_okay=False, help="More, one a line."),
]


def all_questions(given: list[str] | None, file: Path | None) -> list[str]:
    """Each once, in order. Raises BadParameter if there is none."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
    questions = list(dict.fromkeys([*(given or []), *(line.strip() for line in lines if line.strip())]))
    if not questions:
        raise typer.BadParameter("ask something: -q QUESTION or --questions FILE", param_hint="--question")
    return questions
