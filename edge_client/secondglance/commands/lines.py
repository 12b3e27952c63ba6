"""One line of text for one answer, for terminals, `cut` and `grep`."""

from __future__ import annotations

from secondglance.text import NOT_SURE, printable

__all__ = ["printable", "text_line"]


def text_line(name: str, question: str, answer: str, *, with_question: bool, doubtful: bool) -> str:
    """Return name, question and answer parted by tabs; white space inside them becomes single blanks.

    A doubtful answer has one more column that says so.
    """
    fields = [name, question, answer] if with_question else [name, answer]
    if doubtful:
        fields.append(NOT_SURE)
    return "\t".join(" ".join(printable(field, keep_lines=True).split()) for field in fields)
