"""The questions of a command that asks more than one: given with -q, read from a file, or both."""

from __future__ import annotations

import codecs
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Questions: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--question", "-q", metavar="QUESTION", help="A question; repeat the option to ask several."
    ),
]
QuestionsFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--questions",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="A file with further questions, one on each line.",
    ),
]


def all_questions(given: list[str] | None, file: Path | None) -> list[str]:
    """Each once, in order. Raises BadParameter if there is none."""
    lines = text_of(file.read_bytes()).splitlines() if file is not None else []
    questions = list(dict.fromkeys([*(given or []), *(line.strip() for line in lines if line.strip())]))
    if not questions:
        raise typer.BadParameter("ask something: -q QUESTION or --questions FILE", param_hint="--question")
    return questions


def text_of(data: bytes) -> str:
    """Return a text file's text, as editors on any system write it: UTF-8, UTF-16 or a Western code page.

    Raises BadParameter for what is no text.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif data[1:2] == b"\0":
        encodings = ["utf-16-le"]
    elif data[:1] == b"\0":
        encodings = ["utf-16-be"]
    else:
        encodings = ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            if "\0" not in (text := data.decode(encoding)):
                return text
    raise typer.BadParameter("the file is no text in UTF-8, UTF-16 or Latin-1", param_hint="--questions")
